"""The consumer of the labels topic: Kafka → the ``labels`` table, exactly once.

A loop of its own beside :mod:`streaming.ingest`, on the same thread, with a consumer of its own: the two have next to nothing in
common. A label is settled when it is read, so there is no open window that holds an offset back, nothing to remember of a
session, and what is committed goes to another table. One consumer of both topics would make each partition, each commit and
each rebalance a matter of which of the two it is, and let one topic's backlog hold up the other; two consumers cost a second
membership of a group, and 2 % of the thread's time while there are batches without end and no labels. (Not nothing: a poll of
kafka-python 3.0.12 that waits for 0 or 1 ms never gets as far as joining the group, tried; so there are a few that wait for 10 ms.)

1. On assignment, read the partition's offset out of the table, and seek there.
2. Decode each record; what cannot be decoded goes to the dead-letter topic with its coordinates and the reason.
3. When a commit is due, first make the dead letters safe, then publish labels and offsets in one commit
   (:mod:`streaming.publish`). The offset is the next to read.
4. A commit that is refused because somebody else has committed the partition: if we have committed it since it was assigned, or Kafka
   does not know us any more, we are the zombie, and stop. Else the owner before us was late: read on from where it left the table.
5. A commit that fails because the lake or the dead-letter topic cannot be written: keep the labels, stop reading, go on polling (so
   that the partitions stay ours) and try again, more and more slowly.
6. On revocation, forget the partition: what was not published is read again by its next owner.
7. A topic that was made anew, or whose log has lost its end, is not read: its offsets mean other records (:mod:`streaming.incarnation`).
   Such a partition is set aside, and the others, those of batches included, are read on (:mod:`streaming.refusals`).

Nothing is merged or thrown away here, not even a label that came twice: which one counts is decided where windows are read
(:mod:`training.labels`), at the version that was pinned.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pyarrow as pa

from streaming.backoff import Backoff
from streaming.client import DeadLetters, Membership, Polled, Record, Source
from streaming.clock import Clock, SteadyClock
from streaming.errors import BatchError, ClientError, LakeError, LogReplaced, LostOwnership
from streaming.incarnation import require_no_return, require_not_refused, require_same_topic, require_whole_log
from streaming.ingest import coordinates
from streaming.label_wire import SceneLabel, decode_label
from streaming.labels_table import LabelsTable, labels_rows
from streaming.offsets import Account, Offsets, Outcome, TopicPartition
from streaming.progress import PartitionProgress, Progress, caught_up
from streaming.refusals import Refusals
from streaming.rotation import Reason
from streaming.settings import IngestSettings, WindowSettings

_POLL_SECONDS = 0.01
_POLL_EVERY = timedelta(seconds=0.5)
"""Unless the last poll brought something: then there is more, and it does not wait."""
_WATCH = timedelta(seconds=1)

_log = logging.getLogger(__name__)


@dataclass(kw_only=True, slots=True)
class _Owned:
    """A partition while it is ours."""

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
    """Its labels in the table."""
    waiting: list[tuple[int, SceneLabel]] = field(default_factory=list)
    """(offset, label) that are not published yet."""
    ours: bool = False
    """Whether we have committed it since it was assigned."""
    end: int | None = None
    """One past the newest offset that Kafka told of."""

    def skip(self, to: int | None) -> None:
        """See :meth:`streaming.partition.Owned.skip`."""
        if to is not None and to > self.position:
            self.offsets.skip(to)
            self.position = to

    @property
    def renamed(self) -> bool:
        """See :attr:`streaming.partition.Owned.renamed`."""
        return self.committed is not None and self.topic_id is not None and self.topic_id != self.noted_id

    @property
    def moved(self) -> bool:
        """Whether a commit would change anything."""
        return self.position != (self.committed or 0) or self.renamed

    def account(self) -> Account:
        """What a commit of now says of this partition."""
        return Account(
            commit=self.commits + 1, from_offset=self.committed or 0, to_offset=self.position, read_to=self.position,
            windows=len(self.waiting), rows_before=self.rows, topic_id=self.topic_id,
            leader_epoch=self.offsets.epoch_before(self.position), **self.offsets.counts(self.position),
        )  # fmt: skip

    def published(self, account: Account) -> None:
        """A commit with this account took effect."""
        self.committed, self.commits = account.to_offset, account.commit
        self.rows = account.rows_before + account.windows
        self.noted_id = self.noted_id if account.topic_id is None else account.topic_id
        self.offsets.settle(account.to_offset)
        self.waiting.clear()
        self.ours = True

    def progress(self, partition: TopicPartition) -> PartitionProgress:
        """How far it is."""
        return PartitionProgress(
            partition=partition, position=self.position, end=self.end, open_sessions=0, waiting=len(self.waiting),
            open_since_ns=None, valid_through_ns=None,
        )  # fmt: skip


class LabelIngest:
    """Consumes the labels topic into the ``labels`` table.

    Args:
        source: the consumer.
        table: the table.
        dead_letters: where undecodable labels go.
        windows: how far ahead a time may be.
        settings: when to commit.
        clock: our clock, an aware datetime; for commit intervals and ``ingested_at``.
        watch: told about once a second how far it is.
    """

    def __init__(
        self,
        *,
        source: Source,
        table: LabelsTable,
        dead_letters: DeadLetters,
        windows: WindowSettings,
        settings: IngestSettings,
        clock: Clock | None = None,
        watch: Callable[[Progress], None] | None = None,
    ) -> None:
        self._source = source
        self._table = table
        self._dead_letters = dead_letters
        self._max_ahead_ns = int(windows.max_ahead.total_seconds() * 1e9)
        self._settings = settings
        self._clock = clock or SteadyClock()
        self._watch = watch
        self._owned: dict[TopicPartition, _Owned] = {}
        self._given: dict[TopicPartition, bool] = {}
        """Assigned, and not looked up in the table yet; True: ask Kafka first whether it is ours."""
        self._backoff = Backoff(settings.longest_retry)
        self._counters: Counter[str] = Counter()
        self._commits: list[tuple[str, float]] = []
        self._answering = True
        self._last_commit = self._watched = self._clock()
        self._refusals = Refusals(table, again=settings.commit_interval, now=self._last_commit)
        self._last_poll: datetime | None = None
        """None: the last poll brought something."""

    def step(self) -> None:
        """One poll, if one is due, and a commit if one is; all but without waiting, since another loop waits on the same thread.

        Raises:
            LostOwnership: another consumer has taken over a partition; nothing of ours was published since.
        """
        now = self._clock()
        if self._last_poll is None or abs(now - self._last_poll) >= _POLL_EVERY:
            polled = self._source.poll(_POLL_SECONDS)
            self._last_poll = None if polled.records or polled.assigned or polled.revoked else now
            self._heed(polled)
        self._given |= dict.fromkeys(self._refusals.due(now), False)
        due = self._due(now)
        if (due is not None or self._given or self._refusals.unnoted or self._holding) and not self._backoff.waiting(
            now
        ):
            self._try(now, Reason.AGE if self._holding else due)
        if abs(now - self._watched) >= _WATCH:
            self._show(now)

    def commit(self, reason: Reason = Reason.STOP) -> None:
        """Publish the labels that wait, and the offsets, if there is anything new.

        Raises:
            LostOwnership: as :meth:`step`.
            LakeError: the table cannot be written.
            ClientError: the dead-letter topic cannot.
        """
        self._last_commit = self._clock()
        self._refusals.note()
        while moved := {p: owned for p, owned in self._owned.items() if owned.moved}:
            began = time.perf_counter()
            self._dead_letters.flush()
            accounts = {p: owned.account() for p, owned in moved.items()}
            rows = pa.concat_tables(labels_rows(p, owned.waiting, self._last_commit) for p, owned in moved.items())
            try:
                self._table.publish(rows, accounts)
            except LostOwnership as error:
                self._lost(error)
                continue
            except LakeError:
                for owned in moved.values():  # it may have taken effect: whoever is found to have committed may be we
                    owned.ours = False
                raise
            seconds = time.perf_counter() - began
            self._commits.append((reason, seconds))
            self._counters["label_commits"] += 1
            self._counters["labels"] += rows.num_rows
            for p, owned in moved.items():
                owned.published(accounts[p])
            self._source.hint({p: account.to_offset for p, account in accounts.items()})
            _log.info(
                "Committed %d labels of %d partitions in %.3f s, version %d (%s).",
                rows.num_rows, len(accounts), seconds, self._table.version, reason,
            )  # fmt: skip
        if reason is Reason.STOP:
            self._show(self._last_commit)

    def caught_up(self) -> bool:
        """Whether every record that was in the assigned partitions when asked has been read, but for refused ones; a spare has none."""
        try:
            ends = self._source.end_offsets()
        except ClientError:
            return False  # Kafka is away; it will be back
        read = {partition: owned.position for partition, owned in self._owned.items()}
        return caught_up(read, ends, self._refusals.reasons) or (not ends and self._source.spare())

    def counters(self) -> dict[str, int]:
        """Everything that was counted since the start; ``labels`` are those that are published."""
        return dict(self._counters)

    @property
    def refused(self) -> Mapping[TopicPartition, str]:
        """Partitions that are not read, and why."""
        return self._refusals.reasons

    @property
    def _holding(self) -> bool:
        """Whether the lake or the dead-letter topic cannot be written, and nothing is read."""
        return self._backoff.until is not None

    def _due(self, now: datetime) -> Reason | None:
        if sum(len(owned.waiting) for owned in self._owned.values()) >= self._settings.commit_rows:
            return Reason.SIZE
        if any(owned.renamed for owned in self._owned.values()):
            return Reason.OFFSETS  # the setting that accepted it may be gone at the next start
        return Reason.AGE if now - self._last_commit >= self._settings.commit_interval else None

    def _show(self, now: datetime) -> None:
        self._watched = now
        if self._watch is not None:
            ends = self._source.known_ends()
            for partition, owned in self._owned.items():
                owned.end = ends.get(partition, owned.end)
            self._watch(
                Progress(
                    partitions=tuple(owned.progress(p) for p, owned in self._owned.items()), counters=self.counters(),
                    held_bytes=0, paused=len(self._owned) if self._holding else 0, answering=self._answering,
                    commits=tuple(self._commits), refused=tuple(self._refusals.reasons),
                )
            )  # fmt: skip
        self._commits.clear()

    def _heed(self, polled: Polled) -> None:
        self._answering = polled.answering
        for partition in polled.revoked | polled.assigned:
            self._owned.pop(partition, None)
            self._given.pop(partition, None)
            self._refusals.forget(partition)
        self._given |= dict.fromkeys(polled.assigned, False)
        self._source.resume(polled.assigned)  # a client may remember that they were paused
        for partition, owned in list(self._owned.items()):
            try:
                require_same_topic(partition, noted=owned.topic_id, found=self._source.topic_id(partition.topic))
            except LogReplaced as error:
                self._refuse(partition, error)
        for partition, records in polled.records.items():
            # What comes of others was fetched before they were looked up, from the wrong place.
            if partition in self._owned:
                self._take(partition, records)
        for partition, end in polled.ends.items():
            if partition in self._owned:
                self._owned[partition].skip(self._source.position(partition))
                try:
                    require_whole_log(partition, read_to=self._owned[partition].position, end=end)
                except LogReplaced as error:
                    self._refuse(partition, error)

    def _try(self, now: datetime, commit: Reason | None) -> None:
        """Do what needs the lake or the dead-letter topic; if they cannot be used, stop reading and try again later."""
        try:
            self._refusals.note()
            for partition in sorted(self._given, key=str):
                if not self._given[partition] or self._confirmed(partition):
                    self._own(partition)
            if commit is not None:
                self.commit(commit)
        except LostOwnership:
            raise
        except (LakeError, ClientError) as error:
            wait = self._backoff.failed(now)
            self._counters["label_failed_tries"] += 1
            self._source.pause(set(self._owned))
            _log.warning("%s Labels are not read for now; next try in %g s.", error, wait.total_seconds())
        else:
            if self._holding:
                self._backoff.succeeded()
                self._source.resume(set(self._owned))
                self._last_poll = None

    def _lost(self, error: LostOwnership) -> None:
        """Somebody else has committed a partition: the owner before us, late; or the one after us, and then we stop."""
        partition = error.partition
        owned = self._owned.get(partition) if isinstance(partition, TopicPartition) else None
        if not isinstance(partition, TopicPartition) or owned is None or owned.ours:
            raise error
        membership = self._source.confirm({partition: owned.committed or 0})
        if membership is Membership.GONE:
            raise error
        self._counters["labels_taken_anew"] += 1
        # Before anything that may fail: what is in neither of the two is never read again.
        self._given[partition] = membership is not Membership.OWNER
        del self._owned[partition]
        if membership is Membership.OWNER:
            self._own(partition)

    def _confirmed(self, partition: TopicPartition) -> bool:
        """Whether a partition that we doubted is ours; False while Kafka does not say."""
        membership = self._source.confirm({partition: self._table.position(partition).offset or 0})
        if membership is Membership.GONE:
            msg = f"{partition} was committed by another consumer, and is that one's now; this consumer stops."
            raise LostOwnership(msg, partition)
        return membership is Membership.OWNER

    def _own(self, partition: TopicPartition) -> None:
        found = self._table.position(partition)
        topic_id = self._source.topic_id(partition.topic)
        try:
            require_not_refused(partition, refused=found.refused)
            if not self._settings.accept_other_topic:
                require_same_topic(partition, noted=found.topic_id, found=topic_id)
        except LogReplaced as error:
            self._refuse(partition, error)
            return
        start, epoch = found.offset or 0, found.leader_epoch if found.topic_id == topic_id else None
        self._owned[partition] = _Owned(
            committed=found.offset, position=start, offsets=Offsets(start, epoch), commits=found.commits,
            topic_id=topic_id, noted_id=found.topic_id, rows=self._table.rows(partition),
        )  # fmt: skip
        self._source.seek(partition, found.offset, epoch)
        self._given.pop(partition, None)
        if partition in self._refusals.reasons:
            self._refusals.forget(partition)
            self._source.resume({partition})
        self._last_poll = None

    def _refuse(self, partition: TopicPartition, error: LogReplaced) -> None:
        self._owned.pop(partition, None)
        self._given.pop(partition, None)
        self._source.pause({partition})
        self._refusals.add(partition, error)

    def _take(self, partition: TopicPartition, records: Sequence[Record]) -> None:
        owned = self._owned[partition]
        for record in records:
            try:
                require_no_return(partition, read_to=owned.position, came=record.offset)
            except LogReplaced as error:
                self._refuse(partition, error)
                return
            owned.position = record.offset + 1
            self._counters["label_records"] += 1
            try:
                label = decode_label(record.value, max_ahead_ns=self._max_ahead_ns, received_ns=record.timestamp_ns)
            except BatchError as error:
                owned.offsets.note(record.offset, Outcome.DEAD_LETTER, record.leader_epoch)
                self._counters["label_dead_letters"] += 1
                self._counters[f"label_dead_letters_{error.reason}"] += 1
                self._dead_letters.send(record.value, key=record.key, headers=coordinates(partition, record, error))
            else:
                owned.offsets.note(record.offset, Outcome.BATCH, record.leader_epoch)
                owned.waiting.append((record.offset, label))
                self._counters["labels_withdrawn"] += label.scene is None
