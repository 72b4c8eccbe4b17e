"""How far ingestion is, by what Kafka and the lake say: whoever ingests, on whichever machine, or nobody."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import kafka
from kafka.errors import KafkaError

from streaming.client import reaching
from streaming.delta import open_table
from streaming.errors import LakeError
from streaming.offsets import TopicPartition
from streaming.progress import moment
from streaming.security import client_options
from streaming.servers import unreachable
from streaming.settings import KafkaSettings
from streaming.storage import Lake, Storage
from streaming.tables import WINDOWS

_ANSWER_MS = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class PartitionStatus:
    """A partition of the batches topic."""

    partition: int
    end: int
    """One past the newest offset in Kafka."""
    committed: int | None
    """Where the lake says that a restart reads on; None: it has nothing of this partition."""
    begin: int
    """Oldest offset that Kafka still has."""
    valid_through: datetime | None
    """Until when, in event time, the lake is complete; see :mod:`streaming.progress`. Where nothing is left to read: now."""

    @property
    def lag(self) -> int:
        """Records that are not settled: not read, or held by open windows."""
        return self.end - max(self.committed or 0, self.begin)


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """All of it, at a moment."""

    at: datetime
    partitions: tuple[PartitionStatus, ...]
    lake_version: int | None
    """None: there is no lake yet."""

    @property
    def lag(self) -> int:
        """Of all partitions."""
        return sum(each.lag for each in self.partitions)

    @property
    def valid_through(self) -> datetime | None:
        """The least of those partitions that hold anything; None if nothing is known."""
        known = [each for each in self.partitions if each.end]
        moments = [each.valid_through for each in known if each.valid_through is not None]
        return min(moments) if moments and len(moments) == len(known) else None


def rates(before: Status, now: Status) -> Mapping[int, tuple[float, float]]:
    """Partition → (records that came, records that were settled) a second, between two looks."""
    seconds = max((now.at - before.at).total_seconds(), 1e-3)
    earlier = {each.partition: each for each in before.partitions}
    return {
        each.partition: (
            (each.end - earlier[each.partition].end) / seconds,
            ((each.committed or 0) - (earlier[each.partition].committed or 0)) / seconds,
        )
        for each in now.partitions
        if each.partition in earlier
    }


class Observer:
    """Looks at Kafka and the lake as often as is asked.

    Args:
        settings: where Kafka is.
        lake: where the lake is.

    Raises:
        ClientError: Kafka cannot be reached.
    """

    def __init__(self, settings: KafkaSettings, lake: Lake) -> None:
        self._settings = settings
        self._lake = lake
        with reaching(settings):
            self._consumer: Any = kafka.KafkaConsumer(
                **client_options(settings), group_id=None, enable_auto_commit=False
            )

    def look(self) -> Status:
        """How far it is now.

        Raises:
            ClientError: Kafka does not answer.
            LakeError: there is a lake, and it cannot be read.
        """
        topic = self._settings.batches_topic
        at = datetime.now(UTC)
        try:
            numbers = sorted(self._consumer.partitions_for_topic(topic) or ())
            theirs = [kafka.TopicPartition(topic, number) for number in numbers]
            ends = self._consumer.end_offsets(theirs, timeout_ms=_ANSWER_MS) if theirs else {}
            begins = self._consumer.beginning_offsets(theirs, timeout_ms=_ANSWER_MS) if theirs else {}
        except KafkaError as error:
            raise unreachable(self._settings.bootstrap_servers, str(error)) from error
        table = self._table()
        found = []
        for number, one in zip(numbers, theirs, strict=True):
            ours = TopicPartition(topic=topic, partition=number)
            committed = None if table is None else table.transaction(ours.application)
            through = None if table is None else table.transaction(ours.complete_application)
            complete = committed is not None and committed >= ends[one]
            found.append(
                PartitionStatus(
                    partition=number, begin=begins[one], end=ends[one], committed=committed,
                    valid_through=at if complete else None if through is None else moment(through),
                )
            )  # fmt: skip
        return Status(at=at, partitions=tuple(found), lake_version=None if table is None else table.version)

    def close(self) -> None:
        """Give the connection back."""
        self._consumer.close(autocommit=False)

    def _table(self) -> Any:
        storage = Storage(self._lake, WINDOWS)
        try:
            return open_table(storage)
        except LakeError as error:
            if "There is no table" in str(error):
                return None
            raise
