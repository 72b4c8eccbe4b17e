"""The partitions that Kafka gave us: looked up in the table, taken anew, set aside, given back.

What it prevents: reading on from a place that somebody else has left behind; and stopping, although we are the rightful owner, because
the owner before us was late. Kafka gives a partition away when it has not heard of its owner for the session time-out; that one may
be in the middle of a commit, and the commit counts if it comes before our first. So of two that find the partition committed by
somebody else, the one that Kafka still knows as a member of the group takes it anew, and the other one stops.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta

from streaming.assembler import Assembler
from streaming.client import Membership, Polled, Source
from streaming.errors import LogReplaced, LostOwnership, OverBudget
from streaming.incarnation import require_not_refused, require_same_topic, require_whole_log
from streaming.memory import Budget, Turns
from streaming.offsets import Offsets, TopicPartition
from streaming.partition import Owned
from streaming.refusals import Refusals
from streaming.settings import IngestSettings, WindowSettings
from streaming.windows import WindowsTable

_LATE_OWNERS = 3
"""How many owners before us may be late: one is stopped in the middle of a commit, and there may have been a few rebalances."""

_log = logging.getLogger(__name__)


_CUT_TOGETHER = 64
"""Windows that are cut at once: enough for numpy to be quick, few enough for the processor's cache."""


@dataclass(frozen=True, slots=True)
class _Given:
    """What is to be known of a partition before it is looked up in the table."""

    doubtful: bool = False
    """Ask Kafka first whether it is ours."""
    found_again: int = 0
    """See :class:`streaming.partition.Owned`."""


class Assignment:
    """The partitions of one consumer.

    Args:
        source: the consumer.
        table: where they are committed.
        windows: how to cut.
        settings: how much to hold.
        now: on our clock.
    """

    def __init__(
        self, *, source: Source, table: WindowsTable, windows: WindowSettings, settings: IngestSettings, now: datetime
    ) -> None:
        self.owned: dict[TopicPartition, Owned] = {}
        """Those that are read."""
        self.fresh: set[TopicPartition] = set()
        """Sought in this very round: records that its poll brought of them are from the wrong place."""
        self.budget = Budget(settings.memory_budget)
        self.paused: set[TopicPartition] = set()
        """Those that the consumer does not fetch for now."""
        self.counters: Counter[str] = Counter()
        self.turns: Turns | None = None
        """Whether they are read one at a time."""
        self.refusals = Refusals(table, again=settings.commit_interval, now=now)
        """Those that are not read."""
        self._source = source
        self._table = table
        self._windows = windows
        self._settings = settings
        self._given: dict[TopicPartition, _Given] = {}
        """Assigned, and not looked up in the table yet."""
        self._parked: dict[TopicPartition, Owned] = {}
        """Taken away just now; what is held of them is still right if they come back as they were."""
        self._parked_at = now
        self._read: dict[TopicPartition, int] = {}
        """Up to where those were read that wait for their turn."""

    @property
    def expecting(self) -> bool:
        """Whether some are assigned and not looked up yet, or refused and the table does not know."""
        return bool(self._given) or self.refusals.unnoted

    @property
    def held_bytes(self) -> int:
        """Bytes of batches and windows that are held. Looks at all of them."""
        return sum(owned.held_bytes for owned in (*self.owned.values(), *self._parked.values()))

    @property
    def positions(self) -> dict[TopicPartition, int]:
        """Next offset to read of each partition that is being read, or will be when its turn comes."""
        return self._read | {partition: owned.position for partition, owned in self.owned.items()}

    def totals(self) -> Counter[str]:
        """What was counted, also of partitions that are no longer ours."""
        total = Counter(self.counters)
        for owned in (*self.owned.values(), *self._parked.values()):
            total.update(owned.assembler.counters)
        return total

    def rebalance(self, polled: Polled, now: datetime) -> None:
        """Note what was given and taken away; :meth:`adopt` looks it up."""
        if polled.revoked or polled.assigned:
            self._end_turns()
            for partition in polled.revoked | polled.assigned:
                self._given.pop(partition, None)
                self.paused.discard(partition)
                self.refusals.forget(partition)
                owned = self.owned.pop(partition, None)
                if owned is not None:
                    self._parked[partition], self._parked_at = owned, now
                    self.counters["revocations"] += 1
            self._given |= dict.fromkeys(polled.assigned, _Given())
            self._source.resume(polled.assigned)  # a client may remember that they were paused
        self._given |= dict.fromkeys(self.refusals.due(now), _Given())
        if polled.assigned or now - self._parked_at >= self._settings.commit_interval:
            self._unpark(but=set(self._given))

    def listen(self, polled: Polled, now: datetime) -> None:
        """Let silences grow, but only where we would have heard a phone that sends; refuse what is another log than was read."""
        ends = self._source.known_ends()
        for partition, owned in list(self.owned.items()):
            owned.end = ends.get(partition, owned.end)
            if partition not in polled.assigned | polled.revoked and not self._same_topic(partition, owned.topic_id):
                continue
            if partition in self.paused:
                owned.listened = now
            elif partition in polled.records:
                owned.listen(now, within=self._settings.max_poll_records)
            elif partition in polled.ends:
                if partition not in polled.assigned | polled.revoked:  # else what we hold may be older than the table
                    owned.skip(self._source.position(partition))
                    try:
                        require_whole_log(partition, read_to=owned.position, end=polled.ends[partition])
                    except LogReplaced as error:
                        self.refuse(partition, error)
                owned.listen(now, within=0)

    def adopt(self, now: datetime) -> None:
        """Begin to read what was assigned, or refuse it.

        Raises:
            LostOwnership: one that we doubted is not ours.
            LakeError: the table cannot be read or written; what is left is done the next time.
        """
        self.refusals.note()
        for partition, given in list(self._given.items()):
            if given.doubtful:
                membership = self._source.confirm({partition: self._table.offset(partition) or 0})
                if membership is Membership.GONE:
                    msg = f"{partition} was committed by another consumer, and is that one's now; this consumer stops."
                    raise LostOwnership(msg, partition)
                if membership is Membership.UNSURE:
                    continue
            self._own(partition, now, given.found_again)

    def refuse(self, partition: TopicPartition, error: LogReplaced) -> None:
        """Set one aside, and forget what is held of it."""
        if partition in self.owned or (self.turns is not None and partition in self.turns.all):
            self._end_turns()  # not for one that was only looked up again: the others' turns would never come to their end
        self._given.pop(partition, None)
        owned = self.owned.pop(partition, None)
        if owned is not None:
            self._retire(owned)
        self.refusals.add(partition, error)

    def lost(self, error: LostOwnership, now: datetime) -> None:
        """Somebody else has committed a partition: the owner before us, late; or the one after us.

        Raises:
            LostOwnership: we are not its owner any more.
        """
        partition = error.partition
        owned = self.owned.get(partition) if isinstance(partition, TopicPartition) else None
        if (
            not isinstance(partition, TopicPartition)
            or owned is None
            or owned.ours
            or owned.found_again >= _LATE_OWNERS
        ):
            raise error
        membership = self._source.confirm({partition: owned.committed or 0})
        if membership is Membership.GONE:
            raise error
        # Before anything that may fail: what is in neither of the two is never read again.
        self._given[partition] = _Given(membership is not Membership.OWNER, owned.found_again + 1)
        self._retire(self.owned.pop(partition))
        self.counters["taken_anew"] += 1
        _log.warning(
            "%s was committed by its owner before us after we had got it; it is read anew from there.", partition
        )
        if membership is Membership.OWNER:
            self._own(partition, now, owned.found_again + 1)

    def set_aside(self, current: TopicPartition, now: datetime) -> None:
        """Read only this one for now, and forget what is held of the others.

        Raises:
            OverBudget: it alone needs more than the budget.
        """
        self._unpark(but=set())
        if self.turns is None and self.held_bytes > self.budget.limit:
            self.turns = Turns(list(self.owned), current, now)
            self.counters["memory_turns"] += 1
            _log.warning(
                "Open windows need more than [ingest] memory_budget = %d MiB: partitions are read one at a time, more slowly.",
                self.budget.limit >> 20,
            )  # fmt: skip
        if self.turns is not None:
            for partition in self.turns.waiting:
                self._forget(partition)
        self.budget.measured(self.held_bytes)
        if self.budget.over:
            msg = (
                f"The {self.owned[current].assembler.open_sessions} open sessions of {current} need {self.budget.held >> 20} MiB, more "
                f"than [ingest] memory_budget = {self.budget.limit >> 20} MiB. Raise it, or lower [windows] length or lateness, which "
                "say how long a session's samples are held. Nothing is lost: they are read again from Kafka."
            )
            raise OverBudget(msg)

    def turn_over(self, now: datetime) -> bool:
        """Whether the one whose turn it is was read to its end, or for long enough."""
        if self.turns is None:
            return False
        current = self.owned.get(self.turns.current)
        enough: timedelta = self._settings.commit_interval / (4 if current is None or current.all_read else 1)
        return now - self.turns.since >= enough

    def next_turn(self, now: datetime) -> None:
        """Go on to the next partition, or to all of them if memory suffices again."""
        if self.turns is None:
            return
        ended, following = self.turns.current, self.turns.next(self.held_bytes, now)
        if self.turns.fit(self.budget.limit):
            _log.warning("Memory suffices again: all partitions are read.")
            self._end_turns()
            return
        self._forget(ended)
        self._given[following] = _Given()
        self._own(following, now)
        self.budget.measured(self.held_bytes)

    def flow(self, *, holding: bool) -> None:
        """Have the consumer fetch exactly the partitions that are to be read; none while ``holding``."""
        wanted = (
            set(self._given) | set(self.refusals.reasons) | set(self.turns.waiting if self.turns is not None else ())
        )
        if holding:
            wanted |= set(self.owned)
        if wanted - self.paused:
            self._source.pause(wanted - self.paused)
        if self.paused - wanted:
            self._source.resume(self.paused - wanted)
        self.paused = wanted

    def _own(self, partition: TopicPartition, now: datetime, found_again: int = 0) -> None:
        found = self._table.position(partition)
        topic_id = self._source.topic_id(partition.topic)
        try:
            require_not_refused(partition, refused=found.refused)
            if not self._settings.accept_other_topic:
                require_same_topic(partition, noted=found.topic_id, found=topic_id)
        except LogReplaced as error:
            self.refuse(partition, error)
            return
        parked = self._parked.pop(partition, None)
        if parked is not None and parked.at(found) and parked.topic_id == topic_id:
            owned = parked
            owned.assigned = owned.listened = now
            owned.ours, owned.found_again = False, 0
            owned.topic_id, owned.noted_id = topic_id, found.topic_id
            self.counters["continuations"] += 1
            self._source.seek(partition, owned.position, owned.offsets.epoch_before(owned.position))
        else:
            if parked is not None:
                self._retire(parked)
            start, epoch = found.offset or 0, found.leader_epoch if found.topic_id == topic_id else None
            owned = Owned(
                assembler=Assembler(
                    self._windows, self._table.sessions(partition, self._windows.hop_ns), together=_CUT_TOGETHER
                ),
                committed=found.offset, position=start, offsets=Offsets(start, epoch), commits=found.commits, topic_id=topic_id,
                noted_id=found.topic_id,
                rows=self._table.rows(partition), assigned=now, silence=now, listened=now,
                found_again=found_again,
            )  # fmt: skip
            self._source.seek(partition, found.offset, epoch)
        _log.info("Reading %s from offset %d.", partition, owned.position)
        self.owned[partition] = owned
        self._given.pop(partition, None)
        self.refusals.forget(partition)
        self.fresh.add(partition)
        self.counters["assignments"] += 1
        if self.turns is not None and partition not in self.turns.all:
            self._end_turns()  # it was accepted: all share the memory anew

    def _same_topic(self, partition: TopicPartition, read: int | None) -> bool:
        """Whether its topic is still the one that was read; else it is refused."""
        try:
            require_same_topic(partition, noted=read, found=self._source.topic_id(partition.topic))
        except LogReplaced as error:
            self.refuse(partition, error)
            return False
        return True

    def _unpark(self, *, but: set[TopicPartition]) -> None:
        for partition in [partition for partition in self._parked if partition not in but]:
            self._retire(self._parked.pop(partition))

    def _end_turns(self) -> None:
        if self.turns is not None:
            self._given |= dict.fromkeys((p for p in self.turns.all if p not in self.owned), _Given())
            self.turns = None
            self._read.clear()

    def _forget(self, partition: TopicPartition) -> None:
        owned = self.owned.pop(partition, None)
        if owned is not None:
            self._read[partition] = owned.position
            self._retire(owned)

    def _retire(self, owned: Owned) -> None:
        """What was counted of it stays counted."""
        self.counters.update(owned.assembler.counters)
