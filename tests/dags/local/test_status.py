"""The table of ``sensorloop status``."""

from __future__ import annotations

from datetime import UTC, datetime

from rich.console import Console

from dags.local.status import table
from streaming.status import PartitionStatus, Status

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def partition(topic: str, number: int, end: int, committed: int | None) -> PartitionStatus:
    return PartitionStatus(topic=topic, partition=number, end=end, committed=committed, begin=0, valid_through=None)


def test_labels_have_rows_of_their_own() -> None:
    batches = (partition("sensor.batches", 0, 10, 8), partition("sensor.batches", 1, 5, None))
    status = Status(
        at=NOW, partitions=batches, labels=(partition("sensor.labels", 0, 1_234, 34),), lake_version=7, labels_version=3
    )
    console = Console(width=80)
    with console.capture() as capture:
        console.print(table(status, {("sensor.labels", 0): (2.0, 1.5)}))
    title, of_labels, _, first, second, labels = (line.split() for line in capture.get().splitlines())
    assert " ".join(title) == "lake version 7, complete until –, lag 7"
    assert " ".join(of_labels) == "labels version 3, lag 1,200"
    assert first == ["0", "10", "8", "2", "–"]
    assert second == ["1", "5", "–", "5", "–"]
    assert labels == ["labels", "0", "1,234", "34", "1,200", "2.0", "1.5", "–"], "on a terminal of 80 characters"
