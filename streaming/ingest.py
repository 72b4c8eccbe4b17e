"""The consumer's loop: Kafka → windows → lake, exactly once.

The protocol, all on the thread that polls:

1. On assignment, read the partition's offset and its sessions out of the table, and seek there. Kafka's own offset is a hint.
   A partition that was taken away and comes back goes on where it was if nobody has committed it meanwhile.
2. Decode each record; what cannot be decoded goes to the dead-letter topic with its coordinates and the reason.
3. Put samples into windows; windows that close wait in memory.
4. When a commit is due (:mod:`streaming.rotation`), first make the dead letters safe, then publish windows and offsets in one
   commit, with an account of what became of the offsets (:mod:`streaming.publish`). The offset is the lowest one an open window
   still needs.
5. A commit that is refused because somebody else has committed the partition: if we have committed it since it was assigned, or
   Kafka does not know us any more, we are the zombie, and stop. Else the owner before us was late: take the partition anew.
6. A commit that fails because the lake or the dead-letter topic cannot be written: keep the windows, stop reading, go on polling
   (so that the partitions stay ours) and try again, more and more slowly.
7. What is held in memory stays within a budget (:mod:`streaming.memory`).
8. On revocation, forget the partition: what was not published is read again by its next owner.
9. A topic that was made anew, or whose log has lost its end, is not read: its offsets mean other records (:mod:`streaming.incarnation`).
   Such a partition is set aside, and the others are read on (:mod:`streaming.refusals`).

A crash anywhere loses only what is in memory, and the offset in the table says where to read that again.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

import pyarrow as pa

from streaming.assignment import Assignment
from streaming.backoff import Backoff
from streaming.client import DeadLetters, Polled, Record, Source
from streaming.clock import Clock, SteadyClock
from streaming.errors import BatchError, ClientError, LakeError, LogReplaced, LostOwnership
from streaming.incarnation import require_no_return
from streaming.offsets import Outcome, TopicPartition
from streaming.partition import Owned
from streaming.progress import Progress, caught_up
from streaming.refusals import require_none
from streaming.rotation import Reason, due
from streaming.rows import windows_table
from streaming.settings import IngestSettings, WindowSettings
from streaming.windows import WindowsTable
from streaming.wire import SensorBatch, decode

_POLL_SECONDS = 0.5
_WATCH = timedelta(seconds=1)
_MEASURE = timedelta(seconds=10)
"""How often what is held is measured just to show it: with 10,000 phones that takes a tenth of a second."""

_log = logging.getLogger(__name__)


class Beside(Protocol):
    """Another loop on the thread of this one, say :class:`streaming.labels.LabelIngest`."""

    def step(self) -> None:
        """One poll that hardly waits, and a commit if one is due."""

    def commit(self) -> None:
        """Publish what waits."""

    @property
    def refused(self) -> Mapping[TopicPartition, str]:
        """Partitions that are not read, and why."""


class Ingest:
    """Consumes the batches topic into the ``windows`` table.

    Args:
        source: the consumer.
        table: the table.
        dead_letters: where undecodable batches go.
        windows: how to cut.
        settings: when to commit, and how much to hold.
        clock: our clock; for idle sessions, commits and ``ingested_at``.
        watch: told about once a second how far it is.
    """

    def __init__(
        self,
        *,
        source: Source,
        table: WindowsTable,
        dead_letters: DeadLetters,
        windows: WindowSettings,
        settings: IngestSettings,
        clock: Clock | None = None,
        watch: Callable[[Progress], None] | None = None,
    ) -> None:
        self._source = source
        self._table = table
        self._dead_letters = dead_letters
        self._windows = windows
        self._settings = settings
        self._clock = clock or SteadyClock()
        self._watch = watch
        self._backoff = Backoff(settings.longest_retry)
        self._counters: Counter[str] = Counter()
        self._commits: list[tuple[str, float]] = []
        self._answering = True
        self._last_commit = self._heard = self._watched = self._measured = now = self._clock()
        self._ours = Assignment(source=source, table=table, windows=windows, settings=settings, now=now)

    def run(
        self,
        *,
        stop: Callable[[], bool],
        report: Callable[[Mapping[str, int]], None] | None = None,
        beside: Beside | None = None,
    ) -> None:
        """Consume until ``stop()`` is true, then publish what has closed; ``beside`` takes a step after each of ours.

        Raises:
            LostOwnership: another consumer has taken over a partition; nothing of ours was published since.
            LogReplaced: at the end, when all else is published: partitions were not read, since their topic is no longer the one that
                the lake was filled from.
            OverBudget: one partition needs more memory than is allowed.
            LakeError: the table cannot be written, at the end; until then that is waited out.
            ClientError: Kafka refuses.
        """
        while True:
            while not stop():
                self.step()
                if beside is not None:
                    beside.step()
                if report is not None:
                    report(self.counters())
            self.commit(Reason.STOP)
            if beside is not None:
                beside.commit()
            if stop():  # else it depends on what was read, and the commit has taken a partition anew
                break
        self._source.flush_hints()
        self._measured -= _MEASURE
        self._show(self._clock())
        if report is not None:
            report(self.counters())
        require_none(self._ours.refusals.reasons, beside.refused if beside is not None else {})

    def step(self) -> None:
        """One poll, and a commit if one is due."""
        ours = self._ours
        ours.fresh.clear()
        polled = self._source.poll(_POLL_SECONDS)
        now = self._clock()
        self._heard_of(polled, now)
        ours.listen(polled, now)
        ours.rebalance(polled, now)
        if self._holding:
            if not self._backoff.waiting(now):
                self._try(now, lambda: ours.adopt(now), lambda: self.commit(Reason.AGE))
        elif ours.expecting:
            self._try(now, lambda: ours.adopt(now))
        for partition, records in polled.records.items():
            self._take(partition, records, now)
        for partition in list(ours.owned):
            self._close_idle(partition, now)
        if not self._holding and (reason := self._due(now)) is not None:
            self._try(now, lambda: self.commit(reason))
        if not self._holding and ours.turn_over(now):
            self._try(now, lambda: self.commit(Reason.MEMORY), lambda: ours.next_turn(now))
        ours.flow(holding=self._holding)
        if now - self._watched >= _WATCH:
            self._show(now)

    def commit(self, reason: Reason = Reason.STOP) -> None:
        """Publish what has closed, and the offsets, if there is anything new."""
        self._last_commit = now = self._clock()
        self._ours.refusals.note()
        for owned in self._ours.owned.values():
            self._ours.budget.add(owned.cut(now))
        while moved := {p: owned for p, owned in self._ours.owned.items() if owned.moved}:
            try:
                self._publish(moved | self._quiet(), reason, now)
            except LostOwnership as error:
                self._ours.lost(error, now)
            else:
                return

    def caught_up(self) -> bool:
        """Whether every record that was in the assigned partitions when asked has been read, but for refused ones; a spare has none."""
        try:
            ends = self._source.end_offsets()
        except ClientError:
            return False  # Kafka is away; it will be back
        return caught_up(self._ours.positions, ends, self._ours.refusals.reasons) or (not ends and self._source.spare())

    def counters(self) -> dict[str, int]:
        """Everything that was counted since the start."""
        total = self._ours.totals() + self._counters
        total["open_sessions"] = sum(owned.assembler.open_sessions for owned in self._ours.owned.values())
        return dict(total)

    @property
    def held_bytes(self) -> int:
        """Bytes of batches and windows that are held now."""
        return self._ours.held_bytes

    @property
    def _holding(self) -> bool:
        """Whether the lake or the dead-letter topic cannot be written, and nothing is read."""
        return self._backoff.until is not None

    def _heard_of(self, polled: Polled, now: datetime) -> None:
        if polled.answering != self._answering:
            self._answering = polled.answering
            self._counters["kafka_outages"] += not polled.answering
            if polled.answering:
                _log.warning("Kafka answers again; reading goes on.")
            else:
                _log.warning("Kafka does not answer. Waiting for it; what is held stays, and nothing is lost.")
        if polled.records:
            self._heard = now

    def _take(self, partition: TopicPartition, records: Sequence[Record], now: datetime) -> None:
        for record in records:
            owned = self._ours.owned.get(partition)
            if owned is None or partition in self._ours.fresh:
                return  # it was taken anew, from where the table says
            if self._holding or (self._ours.budget.over and not self._relieved(partition, now)):
                if partition in self._ours.owned and partition not in self._ours.fresh:
                    # What is not taken comes again.
                    self._source.seek(partition, owned.position, owned.offsets.epoch_before(owned.position))
                return
            try:
                require_no_return(partition, read_to=owned.position, came=record.offset)
            except LogReplaced as error:
                self._ours.refuse(partition, error)
                return
            self._take_one(partition, owned, record, now)

    def _close_idle(self, partition: TopicPartition, now: datetime) -> None:
        idle = True
        while idle and (owned := self._ours.owned.get(partition)) is not None:
            closed = owned.close(owned.assembler.close_idle(owned.silence), now)
            idle = owned.assembler.idle(owned.silence)
            # Windows wait for company within a step only: whether a commit is due depends on what has closed.
            self._ours.budget.add(closed + owned.cut(now))
            if self._ours.budget.over and (self._holding or not self._relieved(partition, now)):
                return

    def _take_one(self, partition: TopicPartition, owned: Owned, record: Record, now: datetime) -> None:
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
            owned.offsets.note(record.offset, Outcome.DEAD_LETTER, record.leader_epoch)
            self._counters["dead_letters"] += 1
            self._counters[f"dead_letters_{error.reason}"] += 1
            self._dead_letters.send(record.value, key=record.key, headers=coordinates(partition, record, error))
        else:
            self._counters["samples"] += batch.samples
            known = owned.assembler.counters["duplicate_batches"]
            closed = owned.close(owned.assembler.add(batch, record.offset, owned.silence), now)
            self._ours.budget.add(closed + _size(batch))
            owned.newest_ns = max(owned.newest_ns or 0, max((b.start_ns for b in batch.blocks), default=0)) or None
            repeat = owned.assembler.counters["duplicate_batches"] > known
            owned.offsets.note(record.offset, Outcome.REPEAT if repeat else Outcome.BATCH, record.leader_epoch)

    def _due(self, now: datetime) -> Reason | None:
        if any(owned.renamed for owned in self._ours.owned.values()):
            return Reason.OFFSETS  # the setting that accepted it may be gone at the next start
        waiting = [owned.waiting() for owned in self._ours.owned.values()]
        return due(waiting, now=now, heard=self._heard, committed=self._last_commit, settings=self._settings)

    def _quiet(self) -> dict[TopicPartition, Owned]:
        """Partitions without news, of which a commit that is made anyway should say that they are complete until now."""
        return {
            p: owned
            for p, owned in self._ours.owned.items()
            if owned.ours and owned.all_read and not owned.assembler.open_sessions
        }

    def _publish(self, chosen: Mapping[TopicPartition, Owned], reason: Reason, now: datetime) -> None:
        began = time.perf_counter()
        self._dead_letters.flush()
        rows = pa.concat_tables(
            windows_table(owned.closed, self._windows, topic=p.topic, partition=p.partition, ingested_at=now)
            for p, owned in chosen.items()
        )
        accounts = {p: owned.account(now) for p, owned in chosen.items()}
        try:
            self._table.publish(rows, accounts)
        except LostOwnership:
            raise
        except LakeError:
            for owned in chosen.values():  # it may have taken effect: whoever is found to have committed may be we
                owned.ours, owned.found_again = False, 0
            raise
        seconds = time.perf_counter() - began
        for p, owned in chosen.items():
            owned.published(accounts[p])
        self._source.hint({p: account.to_offset for p, account in accounts.items()})
        self._commits.append((reason, seconds))
        self._counters.update({"commits": 1, f"commits_{reason}": 1, "rows": rows.num_rows})
        _log.info(
            "Committed %d windows of %d partitions in %.3f s, version %d (%s).",
            rows.num_rows, len(accounts), seconds, self._table.version, reason,
        )  # fmt: skip

    def _try(self, now: datetime, *actions: Callable[[], None]) -> None:
        """Do what needs the lake or the dead-letter topic; if they cannot be written, stop reading and try again later."""
        try:
            for action in actions:
                action()
        except LostOwnership:
            raise
        except (LakeError, ClientError) as error:
            wait = self._backoff.failed(now)
            self._counters["failed_tries"] += 1
            _log.warning(
                "%s Reading is paused, %d windows wait in memory; next try in %g s.",
                error, sum(owned.closed_rows for owned in self._ours.owned.values()), wait.total_seconds(),
            )  # fmt: skip
        else:
            if self._holding:
                _log.warning("It works again after %d tries; reading goes on.", self._backoff.failures)
                self._backoff.succeeded()

    def _relieved(self, partition: TopicPartition, now: datetime) -> bool:
        """Bring what is held below the budget; False if nothing more of this partition may be taken for now.

        Raises:
            OverBudget: this partition alone needs more.
        """
        ours, budget = self._ours, self._ours.budget
        budget.measured(ours.held_bytes)
        if budget.over:
            for owned in ours.owned.values():  # what waits for company can be committed too
                budget.add(owned.cut(now))
        if budget.over and any(owned.closed for owned in ours.owned.values()):
            self._try(now, lambda: self.commit(Reason.MEMORY))
            if self._holding or partition in ours.fresh or partition not in ours.owned:
                return False
            budget.measured(ours.held_bytes)
        if budget.over:
            ours.set_aside(partition, now)
        return True

    def _show(self, now: datetime) -> None:
        self._watched = now
        if self._watch is not None:
            refused = self._ours.refusals.reasons
            if now - self._measured >= _MEASURE:
                self._ours.budget.measured(self.held_bytes)
                self._measured = now
            self._watch(
                Progress(
                    partitions=tuple(owned.progress(p) for p, owned in self._ours.owned.items()), counters=self.counters(),
                    held_bytes=self._ours.budget.held, paused=len(self._ours.paused - refused.keys()), answering=self._answering,
                    commits=tuple(self._commits), refused=tuple(refused),
                )
            )  # fmt: skip
        self._commits.clear()


def _size(batch: SensorBatch) -> int:
    """Not less than what is held of a batch."""
    return 1_024 + sum(block.values.nbytes + 8 * len(block.values) for block in batch.blocks)


def coordinates(partition: TopicPartition, record: Record, error: BatchError) -> dict[str, str]:
    """Headers of a dead letter: where it was, and why it is one."""
    return {
        "reason": error.reason,
        "detail": error.detail[:1000],
        "topic": partition.topic,
        "partition": str(partition.partition),
        "offset": str(record.offset),
    }
