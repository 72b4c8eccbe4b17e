"""What became of each offset of each partition: the account that every commit carries. Pure.

An offset is *settled* by the commit that moves the stored offset past it: from then on nobody reads it again. Offsets between
the stored one and the newest that was read are held by open windows; after a restart they are read again, by whoever owns the
partition then, and settled later. So the commits' ranges ``[from_offset, to_offset)`` of a partition, one after the other, hold
every offset once, whatever was read how often, and each offset of a range has one outcome:

* ``batches``: a batch with samples for windows (or late ones, which are counted elsewhere),
* ``repeats``: a batch of which everything was known: sent twice, or published by an earlier commit,
* ``dead_letters``: no valid batch; it is in the dead-letter topic,
* ``absent``: Kafka had no record there: a transaction's marker, or deleted by retention before anybody read it.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class TopicPartition:
    """A partition of a topic."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]"

    @property
    def application(self) -> str:
        """The Delta application whose version is the next offset to read."""
        return f"sensorloop/{self.topic}/{self.partition}"

    @property
    def commits_application(self) -> str:
        """The Delta application whose version is the number of commits: it moves also where the offset does not."""
        return f"{self.application}/commits"

    @property
    def topic_application(self) -> str:
        """The Delta application whose version is :func:`streaming.incarnation.short` of the topic's id."""
        return f"{self.application}/topic"

    @property
    def epoch_application(self) -> str:
        """The Delta application whose version is one more than :attr:`Account.leader_epoch`; 0: not known."""
        return f"{self.application}/leader_epoch"

    @property
    def refused_application(self) -> str:
        """The Delta application whose version is 0, or 1 plus the offset from which on records are gone: :mod:`streaming.refusals`."""
        return f"{self.application}/refused"

    @property
    def complete_application(self) -> str:
        """The Delta application whose version is ``valid_through``, ns since the epoch: it outlives the log's old files."""
        return f"{self.application}/valid_through"


class Outcome(StrEnum):
    """What became of an offset; the words of :class:`Account`."""

    BATCH = "batches"
    REPEAT = "repeats"
    DEAD_LETTER = "dead_letters"
    ABSENT = "absent"


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """What one commit says of one partition."""

    commit: int
    """Number of this commit among those of the partition, from 1."""
    from_offset: int
    """Where the commit before ended; 0 for the first."""
    to_offset: int
    """Next offset to read after a restart; offsets below it are settled."""
    read_to: int
    """Next offset to read now; those from ``to_offset`` on are held by open windows."""
    batches: int = 0
    repeats: int = 0
    dead_letters: int = 0
    absent: int = 0
    windows: int = 0
    """Rows of this partition in this commit."""
    rows_before: int = 0
    """Rows of this partition in the table before it."""
    valid_through_ns: int | None = None
    """Until when the partition is complete, see :mod:`streaming.progress`; None if nothing is known."""
    topic_id: int | None = None
    """Which topic of this name it is, see :mod:`streaming.incarnation`; None if Kafka does not say."""
    leader_epoch: int | None = None
    """Under which leader of the partition the record before ``to_offset`` was written, see :mod:`streaming.incarnation`; None if it is
    not known, or if there is no such record."""

    def record(self, partition: TopicPartition) -> dict[str, Any]:
        """As it is kept in the commit's metadata."""
        return {"topic": partition.topic, "partition": partition.partition, **asdict(self)}


_OPTIONAL = ("valid_through_ns", "topic_id", "leader_epoch")


def parse_account(record: Mapping[str, Any]) -> tuple[TopicPartition, Account]:
    """The opposite of :meth:`Account.record`.

    Raises:
        ValueError: it is no such record.
    """
    try:
        partition = TopicPartition(topic=str(record["topic"]), partition=int(record["partition"]))
        optional = {
            name: record.get(name) for name in _OPTIONAL
        }  # absent from commits of before there was such a thing
        numbers = {field.name: int(record[field.name]) for field in fields(Account) if field.name not in _OPTIONAL}
        known = {name: int(value) for name, value in optional.items() if value is not None}
        return partition, Account(**numbers, **known)
    except (KeyError, TypeError, ValueError) as error:
        msg = f"no account of a partition: {record!r}"
        raise ValueError(msg) from error


class Offsets:
    """Outcomes of the offsets that are read and not settled, as runs: a clean stream is one run, however long.

    Args:
        start: the first offset that is not settled.
        epoch: leader epoch of the record before it; None: not known.
    """

    def __init__(self, start: int, epoch: int | None = None) -> None:
        self._start = start
        self._end = start
        self._settled_epoch = epoch
        self._runs: deque[tuple[int, Outcome, int | None]] = deque()
        """(where a run ends, its outcome, the leader epoch of its records), in order."""

    def note(self, offset: int, outcome: Outcome, epoch: int | None = None) -> None:
        """An offset at or after the end was read; those that were skipped are absent."""
        self.skip(offset)
        self._extend(offset + 1, outcome, epoch)

    def skip(self, to: int) -> None:
        """Kafka has no record from the end up to ``to``."""
        if to > self._end:
            self._extend(to, Outcome.ABSENT, None)

    def epoch_before(self, to: int) -> int | None:
        """Leader epoch of the record before an offset that is not settled; None if it is not known, or if there is none."""
        if to <= self._start:
            return self._settled_epoch
        return next((epoch for end, _, epoch in self._runs if end >= to), None)

    def counts(self, to: int) -> dict[str, int]:
        """Offsets per outcome from the start up to ``to``."""
        counted: Counter[str] = Counter()
        at = self._start
        for stop, outcome, _ in self._runs:
            if at >= to:
                break
            counted[outcome.value] += min(stop, to) - at
            at = stop
        return dict(counted)

    def settle(self, to: int) -> None:
        """Forget what is before ``to``."""
        self._settled_epoch = self.epoch_before(to)
        while self._runs and self._runs[0][0] <= to:
            self._runs.popleft()
        self._start = max(self._start, to)

    def _extend(self, end: int, outcome: Outcome, epoch: int | None) -> None:
        if self._runs and self._runs[-1][1:] == (outcome, epoch):
            self._runs.pop()
        self._runs.append((end, outcome, epoch))
        self._end = end


def chain_problems(partition: TopicPartition, accounts: Iterable[tuple[int, Account]], *, whole: bool) -> list[str]:
    """What is wrong with a partition's accounts, a line each.

    Args:
        partition: for the lines.
        accounts: (table version, account), in order of version.
        whole: whether the log goes back to the first version; else the chain may start anywhere.
    """
    problems: list[str] = []
    before = Account(commit=0, from_offset=0, to_offset=0, read_to=0) if whole else None
    for version, account in accounts:
        where = f"{partition} at version {version}"
        if not account.from_offset <= account.to_offset <= account.read_to:
            problems.append(
                f"{where}: offsets run backwards ({account.from_offset}, {account.to_offset}, {account.read_to})"
            )
        settled = account.batches + account.repeats + account.dead_letters + account.absent
        if settled != account.to_offset - account.from_offset:
            problems.append(
                f"{where}: settles {account.from_offset} to {account.to_offset}, but accounts for {settled} offsets"
            )
        if before is not None:
            problems += _link(where, before, account)
        before = account
    return problems


def _link(where: str, before: Account, account: Account) -> list[str]:
    problems = []
    if account.commit != before.commit + 1:
        problems.append(f"{where}: is commit {account.commit} of its partition, the one before was {before.commit}")
    if account.from_offset > before.to_offset:
        problems.append(f"{where}: a hole, offsets {before.to_offset} to {account.from_offset} are in no account")
    if account.from_offset < before.to_offset:
        problems.append(f"{where}: an overlap, offsets {account.from_offset} to {before.to_offset} are in two accounts")
    if account.rows_before != before.rows_before + before.windows:
        problems.append(
            f"{where}: found {account.rows_before} rows, the commit before left {before.rows_before + before.windows}"
        )
    return problems
