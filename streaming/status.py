"""How far ingestion is, by what Kafka and the lake say: whoever ingests, on whichever machine, or nobody."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import kafka
from kafka.errors import KafkaError

from streaming.client import reaching, topic_id
from streaming.delta import Table, open_table
from streaming.errors import NoTable
from streaming.offsets import TopicPartition
from streaming.progress import moment
from streaming.refusals import one_less
from streaming.security import client_options
from streaming.servers import unreachable
from streaming.settings import KafkaSettings
from streaming.storage import Lake, Storage
from streaming.tables import LABELS, WINDOWS

_ANSWER_MS = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class PartitionStatus:
    """A partition of the batches topic, or of the labels topic."""

    topic: str
    partition: int
    end: int
    """One past the newest offset in Kafka."""
    committed: int | None
    """Where the lake says that a restart reads on; None: it has nothing of this partition."""
    begin: int
    """Oldest offset that Kafka still has."""
    valid_through: datetime | None
    """Until when, in event time, the lake is complete; see :mod:`streaming.progress`. Where nothing is left to read: now. Of labels,
    which may be about any time, only that is known."""

    replaced: bool = False
    """Whether this is not the log that the lake was filled from, see :mod:`streaming.incarnation`: ingestion refuses it."""
    other_topic: bool = False
    """Whether that is since Kafka's topic has another id: nothing that could be accepted of one partition."""
    refused: int | None = None
    """From where on, at the earliest, ingestion found records gone that it had read, see :mod:`streaming.refusals`; None if it has not,
    or if that was accepted."""

    @property
    def lag(self) -> int:
        """Records that are not settled: not read, or held by open windows. Of a log that is another one: all of it."""
        return self.end - (self.begin if self.replaced else max(self.committed or 0, self.begin))


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """All of it, at a moment."""

    at: datetime
    partitions: tuple[PartitionStatus, ...]
    """Of the batches topic."""
    labels: tuple[PartitionStatus, ...]
    """Of the labels topic; none if it is not there."""
    lake_version: int | None
    """None: there is no lake yet."""
    labels_version: int | None
    """None: there is no table of labels yet."""

    @property
    def lag(self) -> int:
        """Of all partitions of the batches topic."""
        return sum(each.lag for each in self.partitions)

    @property
    def labels_lag(self) -> int:
        """Of all partitions of the labels topic."""
        return sum(each.lag for each in self.labels)

    @property
    def valid_through(self) -> datetime | None:
        """The least of those partitions that hold anything; None if nothing is known."""
        known = [each for each in self.partitions if each.end]
        moments = [each.valid_through for each in known if each.valid_through is not None]
        return min(moments) if moments and len(moments) == len(known) else None


Rates = Mapping[tuple[str, int], tuple[float, float]]
"""(Topic, partition) → (records that came, records that were settled) a second."""


def rates(before: Status, now: Status) -> Rates:
    """How fast it went between two looks."""
    seconds = max((now.at - before.at).total_seconds(), 1e-3)
    earlier = {(each.topic, each.partition): each for each in (*before.partitions, *before.labels)}
    found = {}
    for each in (*now.partitions, *now.labels):
        then = earlier.get((each.topic, each.partition))
        if then is not None:
            came, settled = each.end - then.end, (each.committed or 0) - (then.committed or 0)
            found[each.topic, each.partition] = (came / seconds, settled / seconds)
    return found


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
        at = datetime.now(UTC)
        windows, labels = self._table(WINDOWS), self._table(LABELS)
        return Status(
            at=at,
            partitions=self._look(self._settings.batches_topic, windows, at),
            labels=self._look(self._settings.labels_topic, labels, at),
            lake_version=None if windows is None else windows.version,
            labels_version=None if labels is None else labels.version,
        )

    def close(self) -> None:
        """Give the connection back."""
        self._consumer.close(autocommit=False)

    def _look(self, topic: str, table: Table | None, at: datetime) -> tuple[PartitionStatus, ...]:
        try:
            numbers = sorted(self._consumer.partitions_for_topic(topic) or ())
            theirs = [kafka.TopicPartition(topic, number) for number in numbers]
            ends = self._consumer.end_offsets(theirs, timeout_ms=_ANSWER_MS) if theirs else {}
            begins = self._consumer.beginning_offsets(theirs, timeout_ms=_ANSWER_MS) if theirs else {}
        except KafkaError as error:
            raise unreachable(self._settings.bootstrap_servers, str(error)) from error
        found, found_id = [], topic_id(self._consumer, topic)
        for number, one in zip(numbers, theirs, strict=True):
            ours = TopicPartition(topic=topic, partition=number)
            committed = None if table is None else table.transaction(ours.application)
            through = None if table is None else table.transaction(ours.complete_application)
            noted = None if table is None else table.transaction(ours.topic_application)
            other = None not in (committed, noted, found_id) and noted != found_id
            refused = None if table is None else one_less(table.transaction(ours.refused_application))
            replaced = other or refused is not None or (committed is not None and ends[one] < committed)
            complete = committed is not None and committed >= ends[one] and not replaced
            found.append(
                PartitionStatus(
                    topic=topic, partition=number, begin=begins[one], end=ends[one], committed=committed, replaced=replaced,
                    other_topic=other, refused=refused,
                    valid_through=at if complete else None if through is None else moment(through),
                )
            )  # fmt: skip
        return tuple(found)

    def _table(self, name: str) -> Table | None:
        try:
            return open_table(Storage(self._lake, name))
        except NoTable:
            return None
