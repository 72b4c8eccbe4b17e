"""The consumer's loop: Kafka → windows → lake, exactly once.

The protocol, all on the thread that polls:

1. On assignment, read the partition's offset and its sessions out of the table, and seek there. Kafka's own offset is a hint.
2. Decode each record; what cannot be decoded goes to the dead-letter topic with its coordinates and the reason.
3. Put samples into windows; windows that close wait in memory.
4. When a commit is due, first make the dead letters safe, then publish windows and offsets in one commit, with an account of
   what became of the offsets (:mod:`streaming.publish`). The offset is the lowest one an open window still needs.
5. On revocation, forget the partition: what was not published is read again by its next owner.

A crash anywhere loses only what is in memory, and the offset in the table says where to read that again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pyarrow as pa

from streaming.assembler import Assembler
from streaming.client import DeadLetters, Record, Source
from streaming.cutting import ClosedWindows
from streaming.errors import BatchError
from streaming.offsets import Account, Offsets, Outcome, TopicPartition
from streaming.rows import windows_table
from streaming.settings import IngestSettings, WindowSettings
from streaming.windows import WindowsTable
from streaming.wire import decode

_POLL_SECONDS = 0.5
_CUT_TOGETHER = 64
"""Windows that are cut at once: enough for numpy to be quick, few enough for the processor's cache."""

Clock = Callable[[], datetime]


@dataclass(kw_only=True, slots=True)
class _Owned:
    """A partition while it is ours."""

    assembler: Assembler
    committed: int | None
    """The offset in the table, as we found or left it."""
    position: int
    """Next offset to read."""
    offsets: Offsets
    commits: int
    """How often this partition was committed, by whomever."""
    rows: int
    """Its windows in the table."""
    closed: list[ClosedWindows] = field(default_factory=list)

    @property
    def resume_at(self) -> int:
        """Where a restart would have to read from, once ``closed`` is published."""
        needed = self.assembler.needed_offset()
        return self.position if needed is None else needed

    def account(self) -> Account:
        """What a commit of now says of this partition."""
        return Account(
            commit=self.commits + 1, from_offset=self.committed or 0, to_offset=self.resume_at, read_to=self.position,
            windows=sum(len(group.starts_ns) for group in self.closed), rows_before=self.rows,
            **self.offsets.counts(self.resume_at),
        )  # fmt: skip

    def published(self, account: Account) -> None:
        """A commit with this account took effect."""
        self.committed, self.commits = account.to_offset, account.commit
        self.rows = account.rows_before + account.windows
        self.offsets.settle(account.to_offset)
        self.closed.clear()


class Ingest:
    """Consumes the batches topic into the ``windows`` table.

    Args:
        source: the consumer.
        table: the table.
        dead_letters: where undecodable batches go.
        windows: how to cut.
        settings: when to commit.
        clock: our clock, an aware datetime; for idle sessions, commit intervals and ``ingested_at``.
    """

    def __init__(
        self,
        *,
        source: Source,
        table: WindowsTable,
        dead_letters: DeadLetters,
        windows: WindowSettings,
        settings: IngestSettings,
        clock: Clock = lambda: datetime.now(UTC),
    ) -> None:
        self._source = source
        self._table = table
        self._dead_letters = dead_letters
        self._windows = windows
        self._settings = settings
        self._clock = clock
        self._owned: dict[TopicPartition, _Owned] = {}
        self._retired: Counter[str] = Counter()
        self._counters: Counter[str] = Counter()
        self._last_commit = clock()

    def run(self, *, stop: Callable[[], bool], report: Callable[[Mapping[str, int]], None] | None = None) -> None:
        """Consume until ``stop()`` is true, then publish what has closed.

        Raises:
            LostOwnership: another consumer has taken over a partition; nothing of ours was published since.
            LakeError: the table cannot be written.
            ClientError: Kafka refuses.
        """
        while not stop():
            self.step()
            if report is not None:
                report(self.counters())
        self.commit()
        if report is not None:
            report(self.counters())

    def step(self) -> None:
        """One poll, and a commit if one is due."""
        polled = self._source.poll(_POLL_SECONDS)
        now = self._clock()
        for partition in polled.revoked:
            self._disown(partition)
        for partition in polled.assigned:
            self._own(partition)
        for partition, records in polled.records.items():
            # Records fetched before the seek of this very round are from the wrong place.
            if partition in self._owned and partition not in polled.assigned:
                self._take(partition, records, now)
        for owned in self._owned.values():
            owned.closed.extend(owned.assembler.close_idle(now))
        waiting = sum(len(group.starts_ns) for owned in self._owned.values() for group in owned.closed)
        if waiting >= self._settings.commit_rows or now - self._last_commit >= self._settings.commit_interval:
            self.commit()

    def commit(self) -> None:
        """Publish what has closed, and the offsets, if there is anything new."""
        self._last_commit = self._clock()
        for owned in self._owned.values():
            owned.closed.extend(owned.assembler.flush())
        moved = {p: o for p, o in self._owned.items() if o.closed or o.resume_at != o.committed}
        if not moved:
            return
        self._dead_letters.flush()
        rows = pa.concat_tables(
            windows_table(
                owned.closed, self._windows, topic=p.topic, partition=p.partition, ingested_at=self._last_commit
            )
            for p, owned in moved.items()
        )
        accounts = {p: owned.account() for p, owned in moved.items()}
        self._table.publish(rows, accounts)
        self._counters["commits"] += 1
        self._counters["rows"] += rows.num_rows
        for p, owned in moved.items():
            owned.published(accounts[p])
        self._source.hint({p: account.to_offset for p, account in accounts.items()})

    def caught_up(self) -> bool:
        """Whether every record that was in the assigned partitions when asked has been read."""
        ends = self._source.end_offsets()
        return bool(self._owned) and all(p in self._owned and self._owned[p].position >= end for p, end in ends.items())

    def counters(self) -> dict[str, int]:
        """Everything that was counted since the start."""
        total = self._counters + self._retired
        for owned in self._owned.values():
            total.update(owned.assembler.counters)
        total["open_sessions"] = sum(owned.assembler.open_sessions for owned in self._owned.values())
        return dict(total)

    def _own(self, partition: TopicPartition) -> None:
        self._disown(partition)
        found = self._table.position(partition)
        memory = self._table.sessions(partition, self._windows.hop_ns)
        start = found.offset or 0
        self._owned[partition] = _Owned(
            assembler=Assembler(self._windows, memory, together=min(_CUT_TOGETHER, self._settings.commit_rows)),
            committed=found.offset, position=start, offsets=Offsets(start), commits=found.commits, rows=self._table.rows(partition),
        )  # fmt: skip
        self._source.seek(partition, found.offset)
        self._counters["assignments"] += 1

    def _disown(self, partition: TopicPartition) -> None:
        owned = self._owned.pop(partition, None)
        if owned is not None:
            self._retired.update(owned.assembler.counters)
            self._counters["revocations"] += 1

    def _take(self, partition: TopicPartition, records: Sequence[Record], now: datetime) -> None:
        owned = self._owned[partition]
        for record in records:
            if record.offset < owned.position:
                continue
            owned.position = record.offset + 1
            self._counters["records"] += 1
            self._counters["bytes"] += len(record.value or b"")
            try:
                batch = decode(
                    record.value or b"",
                    max_bytes=self._settings.max_batch_bytes,
                    max_samples=self._settings.max_batch_samples,
                    max_ahead_ns=int(self._windows.max_ahead.total_seconds() * 1e9),
                    received_ns=record.timestamp_ns,
                )
            except BatchError as error:
                owned.offsets.note(record.offset, Outcome.DEAD_LETTER)
                self._counters["dead_letters"] += 1
                self._counters[f"dead_letters_{error.reason}"] += 1
                self._dead_letters.send(record.value, key=record.key, headers=_coordinates(partition, record, error))
            else:
                self._counters["samples"] += batch.samples
                known = owned.assembler.counters["duplicate_batches"]
                owned.closed.extend(owned.assembler.add(batch, record.offset, now))
                repeat = owned.assembler.counters["duplicate_batches"] > known
                owned.offsets.note(record.offset, Outcome.REPEAT if repeat else Outcome.BATCH)


def _coordinates(partition: TopicPartition, record: Record, error: BatchError) -> dict[str, str]:
    return {
        "reason": error.reason,
        "detail": error.detail[:1000],
        "topic": partition.topic,
        "partition": str(partition.partition),
        "offset": str(record.offset),
    }
