"""The table of ``sensorloop status``."""

from __future__ import annotations

from dataclasses import replace
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


def test_what_is_not_read_says_why_and_only_what_can_be_accepted_is_refused() -> None:
    read = replace(partition("sensor.batches", 0, 34_567, 34_000), valid_through=NOW)
    partitions = (
        replace(read, replaced=True, other_topic=True),
        replace(read, partition=1, replaced=True, other_topic=True, refused=5),
        replace(read, partition=2, replaced=True, refused=5),
        replace(read, partition=3, replaced=True),
        replace(read, partition=4),
    )
    status = Status(at=NOW, partitions=partitions, labels=(), lake_version=7, labels_version=3)
    console = Console(width=100)
    with console.capture() as capture:
        console.print(table(status, {("sensor.batches", number): (12.5, 12.5) for number in range(5)}))
    rows = capture.get().splitlines()[3:]
    ends = "12.5 12.5 2026-01-01 00:00:00"
    assert [" ".join(row.split()) for row in rows] == [
        f"{number} 34,567 34,000 {word} {ends}"
        for number, word in enumerate(("other id", "other id", "refused", "short", "567"))
    ]
