"""The Kafka client, behind a seam that tests can stand in for.

A rebalance is told by kafka-python on its own I/O thread, where neither a commit nor slow work is allowed. The listener here
only notes it; :meth:`Source.poll` hands the notes over on the thread that polls.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import kafka
from kafka.errors import KafkaError

from streaming.errors import ClientError
from streaming.offsets import TopicPartition
from streaming.servers import reach, unreachable
from streaming.settings import IngestSettings, KafkaSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One Kafka record, undecoded."""

    offset: int
    timestamp_ns: int
    """The record's own timestamp, ns since the epoch."""
    key: bytes | None
    value: bytes | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Polled:
    """What one poll brought."""

    records: Mapping[TopicPartition, Sequence[Record]] = field(default_factory=dict)
    revoked: frozenset[TopicPartition] = frozenset()
    """Partitions taken away since the last poll, even if they are back: what is held of them is void."""
    assigned: frozenset[TopicPartition] = frozenset()
    """Partitions given since the last poll: seek them before their records count."""


class Source(Protocol):
    """A consumer in a group."""

    def poll(self, timeout_seconds: float) -> Polled:
        """Wait up to so long for records or a change of assignment."""

    def seek(self, partition: TopicPartition, offset: int | None) -> None:
        """Read on from an offset; None: from the oldest there is."""

    def end_offsets(self) -> Mapping[TopicPartition, int]:
        """One past the newest offset of every partition assigned."""

    def hint(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Tell Kafka how far we are, for tools that show lag; nothing depends on it."""

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


class _Listener(kafka.ConsumerRebalanceListener):  # type: ignore[misc]  # kafka-python has no types
    """Notes what happened; runs on the I/O thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._revoked: set[TopicPartition] = set()
        self._assigned: set[TopicPartition] = set()

    def on_partitions_revoked(self, revoked: Any) -> None:
        with self._lock:
            gone = {_ours(partition) for partition in revoked}
            self._revoked |= gone
            self._assigned -= gone

    def on_partitions_assigned(self, assigned: Any) -> None:
        with self._lock:
            self._assigned |= {_ours(partition) for partition in assigned}

    def on_partitions_lost(self, lost: Any) -> None:
        self.on_partitions_revoked(lost)

    def take(self) -> tuple[frozenset[TopicPartition], frozenset[TopicPartition]]:
        with self._lock:
            taken = frozenset(self._revoked), frozenset(self._assigned)
            self._revoked, self._assigned = set(), set()
            return taken


class KafkaSource:
    """A :class:`Source` over kafka-python, for the batches topic unless ``topic`` names another.

    Each topic has a group of its own, named after it but for the batches topic: a rebalance of one must not disturb the others.

    Raises:
        ClientError: Kafka cannot be reached.
    """

    def __init__(self, kafka_settings: KafkaSettings, ingest: IngestSettings, *, topic: str = "") -> None:
        self._listener = _Listener()
        with reaching(kafka_settings):
            self._consumer = kafka.KafkaConsumer(
                bootstrap_servers=kafka_settings.bootstrap_servers.split(","),
                group_id=f"{kafka_settings.group_id}-{topic}" if topic else kafka_settings.group_id,
                bootstrap_timeout_ms=int(kafka_settings.bootstrap_timeout.total_seconds() * 1000),
                session_timeout_ms=int(kafka_settings.session_timeout.total_seconds() * 1000),
                heartbeat_interval_ms=int(kafka_settings.session_timeout.total_seconds() * 1000) // 10,
                enable_auto_commit=False,  # the table holds the truth; see streaming/publish.py
                auto_offset_reset="earliest",
                max_poll_records=ingest.max_poll_records,
                fetch_max_bytes=16 << 20,
                max_partition_fetch_bytes=4 << 20,
            )
            self._consumer.subscribe([topic or kafka_settings.batches_topic], listener=self._listener)

    def poll(self, timeout_seconds: float) -> Polled:
        """See :meth:`Source.poll`."""
        polled = self._consumer.poll(timeout_ms=int(timeout_seconds * 1000))
        revoked, assigned = self._listener.take()
        records = {
            _ours(partition): [
                Record(offset=r.offset, timestamp_ns=r.timestamp * 1_000_000, key=r.key, value=r.value) for r in batch
            ]
            for partition, batch in polled.items()
        }
        return Polled(records=records, revoked=revoked, assigned=assigned)

    def seek(self, partition: TopicPartition, offset: int | None) -> None:
        """See :meth:`Source.seek`."""
        theirs = _theirs(partition)
        if theirs not in self._consumer.assignment():
            return  # revoked again meanwhile: the next poll says so
        if offset is None:
            self._consumer.seek_to_beginning(theirs)
        else:
            self._consumer.seek(theirs, offset)

    def end_offsets(self) -> Mapping[TopicPartition, int]:
        """See :meth:`Source.end_offsets`."""
        return {_ours(p): end for p, end in self._consumer.end_offsets(list(self._consumer.assignment())).items()}

    def hint(self, offsets: Mapping[TopicPartition, int]) -> None:
        """See :meth:`Source.hint`."""
        metadata = {_theirs(p): kafka.structs.OffsetAndMetadata(offset, "", -1) for p, offset in offsets.items()}
        self._consumer.commit_async(metadata, callback=lambda *_: None)

    def close(self) -> None:
        """See :meth:`Source.close`."""
        self._consumer.close(autocommit=False)


class KafkaDeadLetters:
    """:class:`DeadLetters` as a Kafka topic."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._topic = settings.deadletter_topic
        self._pending: list[Any] = []
        with reaching(settings):
            self._producer = kafka.KafkaProducer(
                bootstrap_servers=settings.bootstrap_servers.split(","),
                bootstrap_timeout_ms=int(settings.bootstrap_timeout.total_seconds() * 1000),
                acks="all",
                linger_ms=20,
            )

    def send(self, value: bytes | None, *, key: bytes | None, headers: Mapping[str, str]) -> None:
        """See :meth:`DeadLetters.send`."""
        encoded = [(name, text.encode()) for name, text in headers.items()]
        self._pending.append(self._producer.send(self._topic, value=value, key=key, headers=encoded))

    def flush(self) -> None:
        """See :meth:`DeadLetters.flush`."""
        try:
            self._producer.flush()
            for pending in self._pending:
                pending.get(timeout=30)
        except KafkaError as error:
            msg = f"A dead letter could not be written to {self._topic}: {error}. Its batch stays uncommitted and is read again."
            raise ClientError(msg) from error
        self._pending.clear()

    def close(self) -> None:
        """Give the connection back."""
        self._producer.close()


@contextmanager
def reaching(settings: KafkaSettings) -> Iterator[None]:
    """Within this a Kafka that is not there is a sentence that says where and what to change.

    Raises:
        ClientError: Kafka cannot be reached.
    """
    reach(settings.bootstrap_servers, timeout=settings.bootstrap_timeout)
    try:
        yield
    except (KafkaError, OSError) as error:
        raise unreachable(settings.bootstrap_servers, str(error)) from error


def _ours(partition: Any) -> TopicPartition:
    return TopicPartition(topic=partition.topic, partition=partition.partition)


def _theirs(partition: TopicPartition) -> Any:
    return kafka.TopicPartition(partition.topic, partition.partition)
