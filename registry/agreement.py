"""Whether the ledger and MLflow fit each other. Reads without the lock: a promotion under way may show."""

from __future__ import annotations

from registry.chain import Problem
from registry.earlier import named
from registry.ledger import Ledger
from registry.versions import Alias, Tag, VersionStore


def problems(store: VersionStore, ledger: Ledger) -> tuple[Problem, ...]:
    """Every place where the chain does not hold, and every version whose seal or alias the ledger does not know.

    Args:
        store: the model's versions in MLflow.
        ledger: the account.
    """
    found = [*ledger.verify()]
    seals = {entry.seal for entry in ledger.entries()}
    for version in store.versions():
        seal = version.tags.get(Tag.LEDGER)
        if seal is not None and seal not in seals:
            number = seal.partition(":")[0]
            text = (
                f"Version {version.version} in MLflow was sealed with entry {number}, which the ledger does not have: "
                "its end was cut off, or it was written anew."
            )
            found.append(Problem(sequence=int(number) if number.isdecimal() else 0, kind="missing", text=text))
    if (differs := disagreement(store, ledger)) is not None:
        found.append(differs)
    return tuple(found)


def disagreement(store: VersionStore, ledger: Ledger) -> Problem | None:
    """That alias and ledger name different champions, if they do."""
    entry, alias = ledger.champion(store.name), store.alias(Alias.CHAMPION)
    if alias == (entry.version if entry else None):
        return None
    text = f"The ledger's champion is {named(entry.version if entry else None)}, MLflow's is {named(alias)}."
    return Problem(sequence=entry.sequence if entry else 0, kind="alias", text=text)
