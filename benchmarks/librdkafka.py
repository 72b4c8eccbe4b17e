"""librdkafka's client behind the seam of :class:`streaming.client.Source`, to measure what it would give.

Not what a user gets: it knows nothing of TLS, and it commits no hint.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer
from confluent_kafka import TopicPartition as Theirs

from benchmarks.sources import Idle
from streaming.client import Polled, Record
from streaming.offsets import TopicPartition
from streaming.settings import IngestSettings, KafkaSettings


class LibrdkafkaSource(Idle):
    """A consumer in a group. Its callbacks run on the thread that polls, so that notes need no lock."""

    def __init__(self, kafka_settings: KafkaSettings, ingest: IngestSettings) -> None:
        self._most = ingest.max_poll_records
        self._revoked: set[TopicPartition] = set()
        self._assigned: set[TopicPartition] = set()
        self._consumer = Consumer(
            {
                "bootstrap.servers": kafka_settings.bootstrap_servers, "group.id": kafka_settings.group_id,
                "enable.auto.commit": False, "auto.offset.reset": "earliest",
                "fetch.max.bytes": 16 << 20, "max.partition.fetch.bytes": 4 << 20,
            }
        )  # fmt: skip
        self._consumer.subscribe(
            [kafka_settings.batches_topic],
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_revoke,
        )

    def poll(self, timeout_seconds: float) -> Polled:
        """See :meth:`streaming.client.Source.poll`."""
        records: dict[TopicPartition, list[Record]] = {}
        # It waits until it has so many: a small number, or the wait is as long as the time-out at the end of a topic.
        for message in self._consumer.consume(min(self._most, 500), timeout_seconds):
            if message.error() is None:
                partition = TopicPartition(topic=message.topic(), partition=message.partition())
                record = Record(
                    offset=message.offset(), timestamp_ns=message.timestamp()[1] * 1_000_000, key=message.key(),
                    value=message.value(),
                )  # fmt: skip
                records.setdefault(partition, []).append(record)
        polled = Polled(records=records, revoked=frozenset(self._revoked), assigned=frozenset(self._assigned))
        self._revoked, self._assigned = set(), set()
        return polled

    def seek(self, partition: TopicPartition, offset: int | None, leader_epoch: int | None = None) -> None:
        """See :meth:`streaming.client.Source.seek`; leaders are not looked at."""
        del leader_epoch
        self._consumer.seek(
            Theirs(partition.topic, partition.partition, OFFSET_BEGINNING if offset is None else offset)
        )

    def end_offsets(self) -> Mapping[TopicPartition, int]:
        """See :meth:`streaming.client.Source.end_offsets`."""
        found = self._consumer.assignment()
        return {_ours(p): self._consumer.get_watermark_offsets(p)[1] for p in found}

    def hint(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Nothing: see above."""

    def close(self) -> None:
        """See :meth:`streaming.client.Source.close`."""
        self._consumer.close()

    def _on_assign(self, _: Any, partitions: list[Any]) -> None:
        self._assigned |= {_ours(p) for p in partitions}

    def _on_revoke(self, _: Any, partitions: list[Any]) -> None:
        gone = {_ours(p) for p in partitions}
        self._revoked |= gone
        self._assigned -= gone


def _ours(partition: Any) -> TopicPartition:
    return TopicPartition(topic=partition.topic, partition=partition.partition)
