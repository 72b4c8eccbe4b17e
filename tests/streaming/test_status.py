"""How far ingestion is, by what Kafka and the lake say."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from streaming.client import KafkaSource
from streaming.label_wire import encode_label
from streaming.labels import LabelIngest
from streaming.labels_table import LabelsTable
from streaming.letters import KafkaDeadLetters
from streaming.replay import make_producer
from streaming.settings import IngestSettings, KafkaSettings, LakeSettings, WindowSettings
from streaming.status import Observer, PartitionStatus, Status, rates

from .test_labels import label

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def partition(topic: str, number: int = 0, **change: object) -> PartitionStatus:
    fields = {
        "topic": topic,
        "partition": number,
        "end": 10,
        "committed": 4,
        "begin": 0,
        "valid_through": NOW,
        **change,
    }
    return PartitionStatus(**fields)  # type: ignore[arg-type]


def status(at: datetime = NOW, *, batches: tuple[PartitionStatus, ...], labels: tuple[PartitionStatus, ...]) -> Status:
    return Status(at=at, partitions=batches, labels=labels, lake_version=7, labels_version=3)


def test_rates_and_lags_of_batches_and_labels_are_told_apart() -> None:
    before = status(batches=(partition("b"),), labels=(partition("l", committed=None),))
    now = status(
        NOW + timedelta(seconds=2), batches=(partition("b", end=20, committed=10), partition("b", 1)),
        labels=(partition("l", end=12, committed=12),),
    )  # fmt: skip
    assert rates(before, now) == {("b", 0): (5.0, 3.0), ("l", 0): (1.0, 6.0)}
    assert (now.lag, now.labels_lag) == (16, 0)
    assert (before.lag, before.labels_lag) == (6, 10)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as closing:
        yield closing


@pytest.mark.broker
def test_labels_are_looked_at_too(
    bootstrap_servers: str, new_topic: Callable[[int], str], tmp_path: Path, stack: ExitStack
) -> None:
    kafka = KafkaSettings(
        bootstrap_servers=bootstrap_servers, batches_topic=new_topic(2), labels_topic=new_topic(1), deadletter_topic=new_topic(1),
        group_id=f"g-{uuid.uuid4().hex}",
    )  # fmt: skip
    lake, ingest = LakeSettings(uri=str(tmp_path)), IngestSettings()
    producer = make_producer(kafka)
    for number in range(3):
        producer.send(kafka.labels_topic, value=encode_label(label(number)), key=b"d1").get(timeout=10)
    producer.close()
    observer = Observer(kafka, lake)
    stack.callback(observer.close)
    found = observer.look()
    assert (len(found.partitions), found.lag, found.labels_lag) == (2, 0, 3)
    assert (found.lake_version, found.labels_version, found.labels[0].valid_through) == (None, None, None)
    source, dead = KafkaSource(kafka, ingest, topic=kafka.labels_topic), KafkaDeadLetters(kafka)
    stack.callback(source.close)
    stack.callback(dead.close)
    labels = LabelIngest(
        source=source, table=LabelsTable(lake), dead_letters=dead, windows=WindowSettings(), settings=ingest
    )
    while not labels.caught_up():
        labels.step()
    labels.commit()
    found = observer.look()
    assert (found.labels_version, found.labels_lag, found.labels[0].committed) == (1, 0, 3)
    assert found.labels[0].valid_through == found.at
