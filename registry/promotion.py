"""Who is champion, and how that changes: promotion, refusal, rollback, and moves made by hand in MLflow.

A promotion, step by step:

1. *Registered.* The version is in MLflow with its description and tags (:mod:`registry.models`). Nothing has changed yet.
2. *Tags.* ``validation_status=passed``, the recovery ratio and the gate's reasons. They say what the gate found, not who serves.
3. *Ledger.* The entry is the decision. Before it, nothing has happened; after it, the promotion will happen.
4. *Alias.* ``champion`` points to the version: from here on it serves.
5. *Seal.* The version is tagged with the entry's number and hash, then the ledger notes that the alias has followed.

It can be killed between any two steps. Killed before 3, the same call starts afresh. Killed after 3, whatever changes
champions next (this call again, a rollback, :meth:`Promotions.reconcile`) does 4 and 5 first: the newest entry is not settled, and
the alias is still where the entry says it was before.

If the entry *is* settled and the alias is elsewhere, somebody has moved it in MLflow. That is entered as ``manual``, and stands:
the ledger gives an account, it does not overrule people.

Afterwards the change is announced (:mod:`registry.notices`), which can fail without failing the promotion.

Steps 2 to 5 run while holding the ledger's lock; :mod:`registry.turn` says what becomes of whoever loses it. A promotion says against
which champion its verdict was made; if another one has become champion while it waited, it is refused
as :class:`~registry.errors.ChampionMoved`, to be judged again.

A rollback goes to the champion before, and the next one further back: it never returns to a version that somebody went away
from (say ``to=`` for that). Deleted versions are passed over. With no earlier champion it goes to the original model as it is;
with neither, it is an error and the champion stays: serving a doubtful model is the operator's choice, serving none is not
ours. Two rollbacks at once are one. One that was killed before its end is finished by calling it again; of one that had come to its end
nothing shows that its caller was never told, and calling it again goes further back, unless it says from which champion (``expected=``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from registry import account, agreement
from registry.chain import Action, Draft, Entry, Problem
from registry.earlier import earlier, named
from registry.errors import ChampionMoved, ModelNotFound, PromotionError, RegistryError
from registry.gate import Verdict
from registry.ledger import Ledger
from registry.notices import Notices
from registry.turn import Turn
from registry.versions import Alias, Status, Tag, Version, VersionStore


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a promotion, refusal or rollback came to."""

    entry: Entry
    """Its entry in the ledger."""
    champion: str | None
    """The version that is champion now. After a repeated promotion that may be a later one."""
    repeated: bool
    """The entry was there before this call; at most its unfinished steps were done."""
    noticed: tuple[Entry, ...]
    """Moves made by hand in MLflow that were entered first."""


class Promotions:
    """The champion of one registered model.

    Args:
        store: the model's versions in MLflow.
        ledger: the account.
        clock: the time now, with time zone.
        who: person or process that is named in the ledger.
        notices: announces changes when they have been made; None for nobody.
    """

    def __init__(
        self,
        store: VersionStore,
        ledger: Ledger,
        *,
        clock: Callable[[], datetime],
        who: str,
        notices: Notices | None = None,
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._clock = clock
        self._who = who
        self._notices = notices
        self._turn = Turn(store, ledger)

    def promote(self, version: str, verdict: Verdict, *, judged_against: str | None) -> Outcome:
        """Make a version champion. Repeatable: the same version with the same run key is judged once.

        Args:
            version: a registered version.
            verdict: the gate's, passed.
            judged_against: the champion that the verdict compared with; None if there was none.

        Raises:
            PromotionError: the verdict has not passed.
            ChampionMoved: another version has become champion since the verdict; judge again.
            ModelNotFound: there is no such version.
            LedgerError: see there.
        """
        if not verdict.passed:
            msg = f"{self._store.name} version {version} has not passed the gate ({', '.join(verdict.failed)}): not promoted"
            raise PromotionError(msg)
        with self._announced(), self._turn.taken():
            noticed = self._reconcile()
            found = self._store.version(version)
            if (known := self._judgement(found)) is not None:
                return self._outcome(known, noticed, repeated=True)
            champion = self._champion()
            if champion != judged_against:
                msg = (
                    f"{self._store.name} version {version} was judged against {named(judged_against)}, but the champion is now "
                    f"{named(champion)}: judge again"
                )
                raise ChampionMoved(msg)
            self._store.tag(version, account.tags(verdict, Status.PASSED))
            entry = self._enter(
                Action.PROMOTE, version, "Passed the gate.", operation=self._operation(Action.PROMOTE, found),
                subject=found, verdict=verdict,
            )  # fmt: skip
            self._settle(entry)
            return self._outcome(entry, noticed)

    def refuse(self, version: str, verdict: Verdict) -> Outcome:
        """Enter that a version did not pass; the champion stays. Repeatable, as :meth:`promote`.

        Raises:
            PromotionError: the verdict has passed, or asks for a new score and so is no judgement; or the version serves.
            ModelNotFound: there is no such version.
            LedgerError: see there.
        """
        if verdict.passed or verdict.rescore:
            what = f"needs a new score of the {' and the '.join(verdict.rescore)}" if verdict.rescore else "has passed"
            msg = f"{self._store.name} version {version}: the verdict {what}, so it is no refusal"
            raise PromotionError(msg)
        with self._announced(), self._turn.taken():
            noticed = self._reconcile()
            found = self._store.version(version)
            if (known := self._judgement(found)) is not None:
                return self._outcome(known, noticed, repeated=True)
            if version == self._champion():
                msg = (
                    f"{self._store.name} version {version} does not pass the gate ({', '.join(verdict.failed)}), but was made champion "
                    "by hand: it is not entered as refused while it serves. Roll back first, if it should not."
                )
                raise PromotionError(msg)
            self._store.tag(version, account.tags(verdict, Status.REFUSED))
            entry = self._enter(
                Action.REFUSED, version, " ".join(verdict.reasons), operation=self._operation(Action.REFUSED, found),
                subject=found, verdict=verdict,
            )  # fmt: skip
            self._retire_challenger(version)
            return self._outcome(entry, noticed)

    def rollback(
        self,
        *,
        to: str | None = None,
        why: str = "",
        expected: str | None = None,
        told: Callable[[Outcome], None] = lambda _: None,
    ) -> Outcome:
        """Put an earlier champion back. Repeatable if ``expected`` is given.

        Args:
            to: the version to go to; None for the champion before (see the module's text).
            why: a reason for the ledger.
            expected: the champion to go away from. If somebody has gone away from it already by a rollback, nothing is done.
            told: is told what it came to before it is announced, which may take a while.

        Raises:
            NothingToRollBack: no version is left to go to.
            ChampionMoved: somebody else has changed the champion while this call waited, or it is not the expected one.
            ModelNotFound: there is no version ``to``.
            LedgerError: see there.
        """
        seen = self._ledger.champion(self._store.name)
        with self._announced():
            with self._turn.taken():
                outcome = self._rolled_back(to, why, expected, seen)
            told(outcome)
        return outcome

    def judgement(self, version: str) -> Entry | None:
        """The entry of what the gate once found of a version: promoted or refused; None if it was never asked.

        Raises:
            ModelNotFound: there is no such version.
            LedgerError: see there.
        """
        return self._judgement(self._store.version(version))

    def reconcile(self) -> tuple[Entry, ...]:
        """Finish a promotion that was killed, and enter a move that was made by hand in MLflow.

        Returns:
            The entries made for moves by hand; empty if alias and ledger agree.
        """
        with self._announced(), self._turn.taken():
            return self._reconcile()

    def champion(self) -> str | None:
        """The version that serves: where the alias points, whoever put it there."""
        return self._store.alias(Alias.CHAMPION)

    def versions(self) -> tuple[Version, ...]:
        """Every registered version, oldest first."""
        return self._store.versions()

    def history(self) -> tuple[Entry, ...]:
        """The model's entries, oldest first."""
        return self._ledger.entries(self._store.name)

    def explain(self, version: str) -> str:
        """What is known of a version, for a person: where it comes from, what the gate found, when it served.

        Raises:
            ModelNotFound: neither MLflow nor the ledger knows it.
        """
        entries = self.history()
        try:
            found = self._store.version(version)
        except ModelNotFound:
            if all(version not in {entry.version, entry.previous_version} for entry in entries):
                raise
            found = None
        announced = self._notices.known() if self._notices else {}
        return account.explain(self._store.name, version, found, entries, self._store.alias(Alias.CHAMPION), announced)

    def verify(self) -> tuple[Problem, ...]:
        """Check the chain, and hold it against what MLflow says. Read without the lock: a promotion under way may show."""
        return agreement.problems(self._store, self._ledger)

    def disagreement(self) -> Problem | None:
        """That alias and ledger name different champions, if they do; read without the lock, and left as it is."""
        return agreement.disagreement(self._store, self._ledger)

    @contextmanager
    def _announced(self) -> Iterator[None]:
        """What has changed inside is announced after it, whether it ended as asked for or was refused."""
        if self._notices is None:
            yield
            return
        self._notices.begin()
        try:
            yield
        except RegistryError:
            self._notices.deliver()
            raise
        self._notices.deliver()

    # Everything below runs while holding the lock.

    def _reconcile(self) -> tuple[Entry, ...]:
        entry, alias = self._ledger.champion(self._store.name), self._store.alias(Alias.CHAMPION)
        expected = entry.version if entry else None
        if entry is not None and not self._ledger.is_settled(entry):
            if alias in {expected, entry.previous_version} and (expected is None or self._exists(expected)):
                self._settle(entry)
                return ()
            self._ledger.settle(entry)  # it was overtaken: what follows says by what
        if alias == expected:
            return ()
        why = f"The alias was found on {named(alias)}, where the ledger had left it on {named(expected)}."
        manual = self._enter(Action.MANUAL, alias, why, who=f"somebody, in MLflow (noticed by {self._who})")
        self._settle(manual)
        return (manual,)

    def _enter(
        self,
        action: Action,
        version: str | None,
        why: str,
        *,
        operation: str = "",
        subject: Version | None = None,
        verdict: Verdict | None = None,
        who: str = "",
    ) -> Entry:
        head = self._ledger.head()
        after = head.sequence if head else 0
        tags = subject.tags if subject else {}
        draft = Draft(
            at=self._clock(),
            who=who or self._who,
            action=action,
            model_name=self._store.name,
            version=version,
            previous_version=self._champion(),
            why=why,
            operation=operation or f"{action}:{self._store.name}:{after + 1}",
            verdict=verdict.to_json() if verdict else None,
            lake_version=tags.get(Tag.LAKE_VERSION),
            run_key=tags.get(Tag.RUN_KEY),
        )
        return self._ledger.append(draft, after=after)

    def _settle(self, entry: Entry) -> None:
        """Steps 4 and 5, each repeatable."""
        if self._store.alias(Alias.CHAMPION) != entry.version:
            self._turn.carry_out(entry)
        if entry.version is not None:
            self._retire_challenger(entry.version)
            self._store.tag(entry.version, {Tag.LEDGER: entry.seal})
        self._ledger.settle(entry)

    def _rolled_back(self, to: str | None, why: str, expected: str | None, seen: Entry | None) -> Outcome:
        current = self._ledger.champion(self._store.name)
        if expected is None:
            if current is not None and self._is_unfinished_rollback(current) and to in {None, current.version}:
                return self._outcome(current, self._reconcile(), repeated=True)
            if current != seen:
                return self._overtaken(seen)
        noticed = self._reconcile()
        current = self._ledger.champion(self._store.name)
        champion = current.version if current else None
        if current is not None and to in {None, champion} and _is_rollback_from(current, expected):
            return self._outcome(current, noticed, repeated=True)
        if expected not in {None, champion}:
            msg = f"{self._store.name}: the champion is {named(champion)}, not {named(expected)}: look, and roll back from that, if at all"
            raise ChampionMoved(msg)
        if current is not None and to is not None and champion == to:
            return self._outcome(current, noticed, repeated=True)
        target, reason = (
            (self._store.version(to), "Named by the operator.")
            if to
            else earlier(self._store, self.history(), champion)
        )
        operation = self._rollback_operation(current)
        text = f"{why.strip()} ({reason})" if why.strip() else reason
        entry = self._enter(Action.ROLLBACK, target.version, text, operation=operation, subject=target)
        self._settle(entry)
        return self._outcome(entry, noticed)

    def _overtaken(self, seen: Entry | None) -> Outcome:
        """Another call held the lock first. If it did the same, this one is done."""
        if (known := self._ledger.operation(self._rollback_operation(seen))) is not None:
            return self._outcome(known, self._reconcile(), repeated=True)
        msg = f"{self._store.name}: the champion changed to {named(self._champion())} while waiting; look, and roll back again"
        raise ChampionMoved(msg)

    def _is_unfinished_rollback(self, entry: Entry) -> bool:
        return entry.action == Action.ROLLBACK and not self._ledger.is_settled(entry)

    def _operation(self, action: Action, version: Version) -> str:
        return f"{action}:{self._store.name}:{version.version}:{version.tags.get(Tag.RUN_KEY, '')}"

    def _judgement(self, version: Version) -> Entry | None:
        """What was found once stands, whatever the gate asks for today and whoever serves."""
        found = (self._ledger.operation(self._operation(each, version)) for each in (Action.PROMOTE, Action.REFUSED))
        return next((entry for entry in found if entry is not None), None)

    def _rollback_operation(self, undone: Entry | None) -> str:
        return f"{Action.ROLLBACK}:{self._store.name}:{undone.sequence if undone else 0}"

    def _retire_challenger(self, version: str) -> None:
        if self._store.alias(Alias.CHALLENGER) == version:
            self._store.unpoint(Alias.CHALLENGER)

    def _champion(self) -> str | None:
        entry = self._ledger.champion(self._store.name)
        return entry.version if entry else None

    def _exists(self, version: str) -> bool:
        try:
            self._store.version(version)
        except ModelNotFound:
            return False
        return True

    def _outcome(self, entry: Entry, noticed: tuple[Entry, ...], *, repeated: bool = False) -> Outcome:
        return Outcome(entry=entry, champion=self._champion(), repeated=repeated, noticed=noticed)


def _is_rollback_from(entry: Entry, champion: str | None) -> bool:
    return champion is not None and entry.action == Action.ROLLBACK and entry.previous_version == champion
