"""The account of a version, as text for a person. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from registry.chain import Action, Entry
from registry.errors import VerdictError
from registry.gate import Verdict
from registry.versions import Status, Tag, Version
from registry.webhook import Notice

_DID = {
    Action.PROMOTE: "promoted",
    Action.ROLLBACK: "put back",
    Action.MANUAL: "moved to by hand",
    Action.REFUSED: "refused",
}


def explain(
    model_name: str,
    version: str,
    found: Version | None,
    entries: Sequence[Entry],
    champion: str | None,
    announced: Mapping[int, Notice],
) -> str:
    """Where a version comes from, what the gate found rule by rule, when it served and what served before and after.

    Args:
        model_name: the registered model.
        version: the version.
        found: what MLflow knows of it; None if it has been deleted there.
        entries: the model's ledger, oldest first.
        champion: the version that serves now.
        announced: sequence of an entry → what came of announcing it.
    """
    return "\n".join(_lines(model_name, version, found, entries, champion, announced))


def tags(verdict: Verdict, status: Status) -> dict[str, str]:
    """What the gate found of a version, as its tags in MLflow."""
    found: dict[str, str] = {Tag.VERDICT: "\n".join(verdict.reasons), Tag.STATUS: status.value}
    for tag, share in ((Tag.RECOVERY, verdict.recovery_ratio), (Tag.BOUND, verdict.recovery_lower_bound)):
        if share is not None:
            found[tag] = f"{share:.4f}"
    if verdict.frozen:
        found[Tag.HOLDOUT] = verdict.frozen
    return found


def _lines(
    model_name: str,
    version: str,
    found: Version | None,
    entries: Sequence[Entry],
    champion: str | None,
    announced: Mapping[int, Notice],
) -> Iterator[str]:
    yield f"{model_name} version {version}{', the champion' if version == champion else ''}"
    yield from _origin(found)
    concerning = [entry for entry in entries if version in {entry.version, entry.previous_version}]
    for entry in concerning:
        yield ""
        if entry.version == version:
            yield from _about(entry)
        elif entry.moves_champion:
            after = f"version {entry.version}" if entry.version is not None else "no version"
            yield f"{_when(entry)}: followed by {after} ({entry.action} by {entry.who})."
            yield f"  {entry.why}"
        else:  # a candidate that was refused while this version was champion
            yield f"{_when(entry)}: stayed champion, version {entry.version} was refused."
        if entry.sequence in announced:
            yield f"  Webhook: {announced[entry.sequence]}."
    if not concerning:
        yield ""
        yield "The ledger has no entry about it: it has been neither judged nor champion."


def _origin(found: Version | None) -> Iterator[str]:
    if found is None:
        yield "  Not in MLflow any more: it has been deleted there."
        return
    yield f"  Registered {found.created:%Y-%m-%d %H:%M:%S} UTC from MLflow run {found.run_id or 'unknown'}."
    for tag, name in (
        (Tag.LAKE_VERSION, "Lake version"),
        (Tag.RUN_KEY, "Run key"),
        (Tag.POLICY, "Policy"),
        (Tag.COHORT, "Cohort"),
        (Tag.STATUS, "Validation status"),
    ):
        if value := found.tags.get(tag):
            yield f"  {name}: {value}."
    if others := [alias for alias in found.aliases if alias != "champion"]:
        yield f"  Also known as: {', '.join(others)}."
    if found.description:
        yield ""
        yield from (f"  {line}" for line in found.description.splitlines())


def _about(entry: Entry) -> Iterator[str]:
    did = _DID.get(Action(entry.action), entry.action) if entry.action in set(Action) else entry.action
    before = f"version {entry.previous_version}" if entry.previous_version is not None else "none"
    yield f"{_when(entry)}: {did} by {entry.who}. Champion before: {before}."
    if entry.verdict is None:
        yield f"  {entry.why}"
        return
    try:
        verdict = Verdict.from_json(entry.verdict)
    except VerdictError as error:
        yield f"  Its verdict cannot be read: {error}"
        return
    ratio = "not computable" if verdict.recovery_ratio is None else f"{verdict.recovery_ratio:.4f}"
    answer = "passed" if verdict.passed else f"refused by {', '.join(verdict.failed)}"
    low = "" if verdict.recovery_lower_bound is None else f" (at least {verdict.recovery_lower_bound:.4f})"
    frozen = f" of frozen holdout {verdict.frozen}, its question {verdict.asked}" if verdict.frozen else ""
    yield f"  Verdict: {answer}; recovery ratio {ratio}{low}; holdout {verdict.holdout or 'unnamed'}{frozen}."
    if entry.lake_version is not None or entry.run_key is not None:
        yield f"  From lake version {entry.lake_version or 'unknown'}, run key {entry.run_key or 'unknown'}."
    for rule in verdict.rules:
        yield f"  [{'pass' if rule.passed else 'FAIL'}] {rule.name}: {rule.text}"


def _when(entry: Entry) -> str:
    return f"Entry {entry.sequence}, {entry.at[:19].replace('T', ' ')} UTC"
