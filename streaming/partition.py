"""A partition while it is ours: its open windows, what of it waits for a commit, and what a commit says of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from streaming.assembler import Assembler, ClosedWindows
from streaming.offsets import Account, Offsets, TopicPartition
from streaming.progress import PartitionProgress, valid_through_ns
from streaming.publish import Position
from streaming.rotation import Waiting

_LONGEST_STEP = timedelta(seconds=2)
"""The loop asks of a quiet partition once a second; what is longer was spent elsewhere, say in a write to a slow disk."""


@dataclass(kw_only=True, slots=True)
class Owned:
    """A partition while it is ours."""

    assembler: Assembler
    committed: int | None
    """The offset in the table, as we found or left it."""
    position: int
    """Next offset to read."""
    offsets: Offsets
    commits: int
    """How often this partition was committed, by whomever."""
    topic_id: int | None
    """Which topic of its name it is of; None if Kafka does not say."""
    noted_id: int | None
    """Which one the table says; None: nothing yet."""
    rows: int
    """Its windows in the table."""
    assigned: datetime
    """Since when it is ours."""
    silence: datetime
    """A clock that runs only while we would hear a phone that sends; sessions are idle by this one."""
    listened: datetime
    """When Kafka last told of it, and the silence was counted up to."""
    ours: bool = False
    """Whether we have committed it since it was assigned: from then on nobody else may."""
    found_again: int = 0
    """How often somebody else has committed it since it was assigned, before we did."""
    end: int | None = None
    """One past its newest offset, as far as Kafka has said."""
    newest_ns: int | None = None
    """Newest event time seen."""
    complete_ns: int | None = None
    """``valid_through`` of the last commit."""
    closed: list[ClosedWindows] = field(default_factory=list)
    closed_rows: int = 0
    closed_bytes: int = 0
    closed_since: datetime | None = None
    """When the oldest of ``closed`` closed."""

    def close(self, closed: Iterable[ClosedWindows], now: datetime) -> int:
        """Windows have closed; returns the bytes of their signals."""
        before = self.closed_bytes
        for group in closed:
            self.closed.append(group)
            self.closed_rows += len(group.starts_ns)
            self.closed_bytes += sum(signal.nbytes for signal in group.signals.values())
            self.closed_since = self.closed_since or now
        return self.closed_bytes - before

    def cut(self, now: datetime) -> int:
        """Cut what has closed and waits for company; returns the bytes of their signals."""
        return self.close(self.assembler.flush(), now)

    def skip(self, to: int | None) -> None:
        """Nothing came, and the next that could is at ``to``; None: that is not known."""
        if to is not None and to > self.position:
            self.offsets.skip(to)
            self.position = to

    def listen(self, now: datetime, *, within: int) -> None:
        """Kafka has told of this partition that not more than ``within`` records are left; a phone that sends would have been heard.

        What we were busy with otherwise since the last time counts for a moment only: what came meanwhile is not read yet.
        """
        passed, self.listened = now - self.listened, now
        if self.end is None or self.end - self.position <= within:
            self.silence += min(passed, _LONGEST_STEP)

    @property
    def all_read(self) -> bool:
        """Whether everything that Kafka told of was read."""
        return self.end is not None and self.position >= self.end

    @property
    def resume_at(self) -> int:
        """Where a restart would have to read from, once ``closed`` is published."""
        needed = self.assembler.needed_offset()
        return self.position if needed is None else needed

    @property
    def moved(self) -> bool:
        """Whether a commit would change anything."""
        return bool(self.closed) or self.resume_at != self.committed or self.renamed

    @property
    def renamed(self) -> bool:
        """Whether the table has another id of the topic, or none, beside an offset: it was accepted, and must be noted at once."""
        return self.committed is not None and self.topic_id is not None and self.topic_id != self.noted_id

    @property
    def held_bytes(self) -> int:
        """What is held in memory."""
        return self.closed_bytes + self.assembler.held_bytes()

    def at(self, position: Position) -> bool:
        """Whether the table says what it said when we last saw it: nobody else has committed."""
        return (position.offset, position.commits) == (self.committed, self.commits)

    def waiting(self) -> Waiting:
        """What waits for a commit."""
        return Waiting(rows=self.closed_rows, bytes=self.closed_bytes, since=self.closed_since, assigned=self.assigned)

    def valid_through_ns(self, now: datetime) -> int | None:
        """Until when the partition is complete, once ``closed`` is published."""
        return valid_through_ns(
            open_since_ns=self.assembler.open_since_ns(), newest_ns=self.newest_ns, all_read=self.all_read, now=now
        )

    def account(self, now: datetime) -> Account:
        """What a commit of now says of this partition."""
        return Account(
            commit=self.commits + 1, from_offset=self.committed or 0, to_offset=self.resume_at, read_to=self.position,
            windows=self.closed_rows, rows_before=self.rows, valid_through_ns=self.valid_through_ns(now), topic_id=self.topic_id,
            leader_epoch=self.offsets.epoch_before(self.resume_at),
            **self.offsets.counts(self.resume_at),
        )  # fmt: skip

    def published(self, account: Account) -> None:
        """A commit with this account took effect."""
        self.committed, self.commits, self.ours = account.to_offset, account.commit, True
        self.rows = account.rows_before + account.windows
        self.noted_id = self.noted_id if account.topic_id is None else account.topic_id
        self.complete_ns = account.valid_through_ns
        self.offsets.settle(account.to_offset)
        self.closed.clear()
        self.closed_rows, self.closed_bytes, self.closed_since = 0, 0, None

    def progress(self, partition: TopicPartition) -> PartitionProgress:
        """How far it is."""
        return PartitionProgress(
            partition=partition, position=self.position, end=self.end, open_sessions=self.assembler.open_sessions,
            waiting=self.closed_rows, open_since_ns=self.assembler.open_since_ns(), valid_through_ns=self.complete_ns,
        )  # fmt: skip
