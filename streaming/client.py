"""The Kafka client, behind a seam that tests can stand in for.

A rebalance is told by kafka-python on its own I/O thread, where neither a commit nor slow work is allowed. The listener here
only notes it; :meth:`Source.poll` hands the notes over on the thread that polls.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Protocol

import kafka
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from kafka.errors import CommitFailedError, KafkaError, RebalanceInProgressError

from streaming.incarnation import short
from streaming.joining import keep_join
from streaming.listener import Listener, ours, theirs
from streaming.offsets import TopicPartition
from streaming.quiet import Quiet
from streaming.security import client_options
from streaming.servers import reach, unreachable
from streaming.settings import IngestSettings, KafkaSettings

_ANSWER_MS = 2_000
_BUSY_MS = 90_000
_CLOSE_MS = 1_500
_HINT_MS = 1_000
_METADATA_AGE_MS = 2_000
"""How often the client asks which partitions the topic has.

A request for it that is made while an earlier one is under way is forgotten when that is answered (kafka-python 3.0.12); with the client's
own 5 minutes a group whose leader was asked too early would have nothing for so long. Well below what a spare member waits to say so.
"""
_LOOK_AGAIN_S = 0.1
_SETTLED_S = 5.0
"""How long a group has given us nothing before we take it at its word."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One Kafka record, undecoded."""

    offset: int
    timestamp_ns: int
    """The record's own timestamp, ns since the epoch."""
    key: bytes | None
    value: bytes | None
    leader_epoch: int | None = None
    """Under which leader of the partition it was written; None if Kafka does not say."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Polled:
    """What one poll brought."""

    records: Mapping[TopicPartition, Sequence[Record]] = field(default_factory=dict)
    revoked: frozenset[TopicPartition] = frozenset()
    """Partitions taken away since the last poll, even if they are back: what is held of them is void."""
    assigned: frozenset[TopicPartition] = frozenset()
    """Partitions given since the last poll: seek them before their records count."""
    answering: bool = True
    """Whether Kafka answers, as far as is known."""
    ends: Mapping[TopicPartition, int] = field(default_factory=dict)
    """Where partitions end, of which nothing came and Kafka was asked just now."""


class Membership(Enum):
    """Whether Kafka still knows this consumer as a member of its group."""

    OWNER = auto()
    """It does: what is assigned to it is its own."""
    GONE = auto()
    """It does not: others have its partitions."""
    UNSURE = auto()
    """The group is being rearranged, or Kafka does not answer."""


class Source(Protocol):
    """A consumer in a group."""

    def poll(self, timeout_seconds: float) -> Polled:
        """Wait up to so long for records or a change of assignment."""

    def seek(self, partition: TopicPartition, offset: int | None, leader_epoch: int | None = None) -> None:
        """Read on from an offset; None: from the oldest there is.

        With the leader epoch of the record before it, if that is known, it is read from where the log is another since: before the offset,
        if it lost its end (KIP-320).
        """

    def end_offsets(self) -> Mapping[TopicPartition, int]:
        """One past the newest offset of every partition assigned.

        Raises:
            ClientError: Kafka does not answer.
        """

    def known_ends(self) -> Mapping[TopicPartition, int]:
        """The same, as far as it is known without asking."""

    def position(self, partition: TopicPartition) -> int | None:
        """Next offset that a poll would bring, as far as is known without asking.

        It is beyond the last record that came where Kafka has none in between: deleted by retention, or a transaction's marker.
        """

    def topic_id(self, topic: str) -> int | None:
        """Which topic of this name it is, see :mod:`streaming.incarnation`; None if Kafka does not say."""

    def spare(self) -> bool:
        """Whether the group has shared out its partitions and none is ours: it has more members than the topic partitions."""

    def pause(self, partitions: Collection[TopicPartition]) -> None:
        """Bring no records of these any more; membership and positions stay."""

    def resume(self, partitions: Collection[TopicPartition]) -> None:
        """Bring them again."""

    def hint(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Tell Kafka how far we are, for tools that show lag; nothing depends on it."""

    def flush_hints(self) -> None:
        """Wait a moment until Kafka knows."""

    def confirm(self, offsets: Mapping[TopicPartition, int]) -> Membership:
        """Ask whether we are still who we were, by a hint that Kafka takes from members only."""

    def close(self) -> None:
        """Leave the group."""


class DeadLetters(Protocol):
    """Where undecodable batches go."""

    def send(self, value: bytes | None, *, key: bytes | None, headers: Mapping[str, str]) -> None:
        """Queue one."""

    def flush(self) -> None:
        """Return when all that were queued are safe.

        Raises:
            ClientError: one of them is not.
        """


class KafkaSource:
    """A :class:`Source` over kafka-python, for the batches topic unless ``topic`` names another.

    Each topic has a group of its own, named after it but for the batches topic: a rebalance of one must not disturb the others.

    Raises:
        ClientError: Kafka cannot be reached.
    """

    def __init__(self, kafka_settings: KafkaSettings, ingest: IngestSettings, *, topic: str = "") -> None:
        self._listener = Listener()
        self._servers = kafka_settings.bootstrap_servers
        self._quiet = Quiet(self._ask_ends)
        self._hints: dict[TopicPartition, int] = {}
        self._resuming: set[TopicPartition] = set()
        """Those that are fetched again as soon as it is known which topic they are of."""
        self._asked: Any = None
        """What becomes of that question."""
        with reaching(kafka_settings):
            self._consumer = kafka.KafkaConsumer(
                **client_options(kafka_settings),
                group_id=f"{kafka_settings.group_id}-{topic}" if topic else kafka_settings.group_id,
                session_timeout_ms=int(kafka_settings.session_timeout.total_seconds() * 1000),
                # So long a rebalance waits for a member that is busy (with a commit to a slow store, say), and so long, and 5 s more, we
                # wait for a place in the group if our request for one is lost.
                max_poll_interval_ms=_BUSY_MS,
                heartbeat_interval_ms=int(kafka_settings.session_timeout.total_seconds() * 1000) // 10,
                enable_auto_commit=False,  # the table holds the truth; see streaming/publish.py
                auto_offset_reset="earliest",
                metadata_max_age_ms=_METADATA_AGE_MS,
                # When consumers come and go, most partitions stay where they are; the second is for a group that still has the old one.
                partition_assignment_strategy=(StickyPartitionAssignor, RangePartitionAssignor),
                # After an outage of Kafka it is tried every 2 s; the default goes up to 30.
                reconnect_backoff_max_ms=2_000,
                max_poll_records=ingest.max_poll_records,
                fetch_max_bytes=16 << 20,
                max_partition_fetch_bytes=4 << 20,
            )
            self._consumer.subscribe([topic or kafka_settings.batches_topic], listener=self._listener)

    def poll(self, timeout_seconds: float) -> Polled:
        """See :meth:`Source.poll`."""
        self._resume()
        try:
            polled = self._consumer.poll(timeout_ms=int(timeout_seconds * 1000))
        except KafkaError as error:
            # kafka-python lets it through when the broker that dies is the one that it asks for the group's coordinator.
            if not error.retriable:
                raise
            if self._quiet.failed():
                _log.warning("A poll found a broker gone (%s); the next one looks for another.", error)
            time.sleep(min(timeout_seconds, _LOOK_AGAIN_S))
            revoked, assigned = self._listener.take()
            return Polled(revoked=revoked, assigned=assigned, answering=self._quiet.answering)
        finally:
            keep_join(self._consumer)
        revoked, assigned = self._listener.take()
        records = {
            ours(partition): [
                Record(
                    offset=r.offset,
                    timestamp_ns=r.timestamp * 1_000_000,
                    key=r.key,
                    value=r.value,
                    leader_epoch=None if r.leader_epoch < 0 else r.leader_epoch,
                )
                for r in batch
            ]
            for partition, batch in polled.items()
        }
        ends = self._quiet.polled(list(map(ours, self._consumer.assignment())), records.keys())
        return Polled(
            records=records, revoked=revoked, assigned=assigned, answering=self._quiet.answering, ends=ends
        )  # fmt: skip

    def seek(self, partition: TopicPartition, offset: int | None, leader_epoch: int | None = None) -> None:
        """See :meth:`Source.seek`."""
        one = theirs(partition)
        if one not in self._consumer.assignment():
            return  # revoked again meanwhile: the next poll says so
        if offset is None:
            self._consumer.seek_to_beginning(one)
        elif leader_epoch is None:
            self._consumer.seek(one, offset)
        else:
            # Its public way has no room for the epoch; given one, the client asks the leader where that ended before it fetches.
            position = kafka.structs.OffsetAndMetadata(offset, "", leader_epoch)
            self._consumer._subscription.seek(one, position)  # noqa: SLF001

    def end_offsets(self) -> Mapping[TopicPartition, int]:
        """See :meth:`Source.end_offsets`."""
        return self._ask_ends(list(map(ours, self._consumer.assignment())), None)

    def known_ends(self) -> Mapping[TopicPartition, int]:
        """See :meth:`Source.known_ends`."""
        known: dict[TopicPartition, int] = {}
        for one in self._consumer.assignment():
            end = max(self._consumer.highwater(one) or 0, self._quiet.ends.get(ours(one), 0))
            if end:
                known[ours(one)] = end
        return known

    def position(self, partition: TopicPartition) -> int | None:
        """See :meth:`Source.position`."""
        # Its public way asks Kafka, and waits, while a partition of ours has no position yet.
        state = self._consumer._subscription.assignment.get(theirs(partition))  # noqa: SLF001
        found = None if state is None else state.position
        return None if found is None else int(found.offset)

    def topic_id(self, topic: str) -> int | None:
        """See :meth:`Source.topic_id`."""
        return topic_id(self._consumer, topic)

    def spare(self) -> bool:
        """See :meth:`Source.spare`."""
        # A leader that has not heard of a new topic's partitions gives out none, and all of them a moment later.
        return not self._consumer.assignment() and self._listener.shared_for() >= _SETTLED_S

    def _ask_ends(self, of: Collection[TopicPartition], timeout_ms: int | None) -> dict[TopicPartition, int]:
        try:
            found = self._consumer.end_offsets(list(map(theirs, of)), timeout_ms=timeout_ms)
        except KafkaError as error:
            raise unreachable(self._servers, str(error)) from error
        return {ours(partition): end for partition, end in found.items()}

    def pause(self, partitions: Collection[TopicPartition]) -> None:
        """See :meth:`Source.pause`."""
        self._resuming -= set(partitions)
        self._consumer.pause(*self._assigned(partitions))

    def resume(self, partitions: Collection[TopicPartition]) -> None:
        """See :meth:`Source.resume`."""
        # While nothing is fetched no answer tells that the topic was made anew, and the client fetches by the topic's name (3.0.12).
        self._resuming |= set(partitions) & set(map(ours, self._consumer.paused()))
        if self._resuming:
            self._asked = self._consumer._cluster.request_update()  # noqa: SLF001 - it has no public way to it

    def _resume(self) -> None:
        if self._resuming and self._asked.succeeded():
            self._consumer.resume(*self._assigned(self._resuming))
            self._resuming.clear()
        elif self._resuming and self._asked.is_done:
            self._asked = self._consumer._cluster.request_update()  # noqa: SLF001 - Kafka was away

    def hint(self, offsets: Mapping[TopicPartition, int]) -> None:
        """See :meth:`Source.hint`."""
        self._hints.update(offsets)
        self._consumer.commit_async(_metadata(offsets), callback=lambda *_: None)

    def flush_hints(self) -> None:
        """See :meth:`Source.flush_hints`."""
        assigned = self._consumer.assignment()
        hints = {partition: offset for partition, offset in self._hints.items() if theirs(partition) in assigned}
        if hints and self._quiet.answering:
            with contextlib.suppress(KafkaError):
                self._consumer.commit(_metadata(hints), timeout_ms=_HINT_MS)

    def confirm(self, offsets: Mapping[TopicPartition, int]) -> Membership:
        """See :meth:`Source.confirm`."""
        try:
            self._consumer.commit(_metadata(offsets), timeout_ms=_ANSWER_MS)
        except CommitFailedError as error:
            # kafka-python says so too where the group is only being rearranged, with that error inside.
            rearranged = bool(error.args) and isinstance(error.args[0], RebalanceInProgressError)
            return Membership.UNSURE if rearranged else Membership.GONE
        except KafkaError:
            return Membership.UNSURE
        return Membership.OWNER

    def close(self) -> None:
        """See :meth:`Source.close`."""
        # A Kafka that does not answer must not keep us from ending.
        self._consumer.close(autocommit=False, timeout_ms=_CLOSE_MS)

    def _assigned(self, partitions: Collection[TopicPartition]) -> list[Any]:
        """Those that are still assigned: others may be gone before the next poll says so."""
        assigned = self._consumer.assignment()
        return [one for one in map(theirs, partitions) if one in assigned]


@contextmanager
def reaching(settings: KafkaSettings) -> Iterator[None]:
    """Within this a Kafka that is not there, or lets nobody in, is a sentence that says where and what to change.

    Raises:
        ClientError: Kafka cannot be reached.
        AccessError: it can be, but refuses us, or is not the one that it should be.
    """
    reach(settings, timeout=settings.bootstrap_timeout)
    try:
        yield
    except (KafkaError, OSError) as error:
        raise unreachable(settings.bootstrap_servers, str(error)) from error


def topic_id(consumer: Any, topic: str) -> int | None:
    """Which topic of this name kafka-python's consumer has found, see :mod:`streaming.incarnation`; None if Kafka does not say."""
    found = consumer._cluster.topic_id(topic)  # noqa: SLF001 - it keeps the id, and has no public way to it
    return None if found is None else short(found)


def _metadata(offsets: Mapping[TopicPartition, int]) -> dict[Any, Any]:
    return {theirs(p): kafka.structs.OffsetAndMetadata(offset, "", -1) for p, offset in offsets.items()}
