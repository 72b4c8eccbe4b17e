"""What ``sensorloop ingest`` shows while it runs."""

from __future__ import annotations

from dags.local.ingesting import Line
from streaming.offsets import TopicPartition
from streaming.progress import PartitionProgress, Progress


def test_batches_and_labels_and_how_many_are_left() -> None:
    line = Line()
    assert line.of({}, {})["labels"] == 0, "that none has come is said too"
    seen: list[Progress] = []
    partition = PartitionProgress(
        partition=TopicPartition(topic="sensor.labels", partition=0), position=3, end=8, open_sessions=0, waiting=0,
        open_since_ns=None, valid_through_ns=None,
    )  # fmt: skip
    progress = Progress(partitions=(partition,), counters={}, held_bytes=0, paused=0, answering=True)
    line.watching("label_lag_records", seen.append)(progress)
    shown = line.of({"rows": 4}, {"labels": 3, "label_dead_letters_empty": 1})
    assert seen == [progress]
    assert (shown["rows"], shown["labels"], shown["label_dead_letters_empty"], shown["label_lag_records"]) == (
        4,
        3,
        1,
        5,
    )
