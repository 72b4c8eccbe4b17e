"""What Prometheus is told."""

from __future__ import annotations

import socket
from pathlib import Path

import httpx
import pytest

from streaming import ports
from streaming.errors import SettingsError
from streaming.ingest import Ingest
from streaming.metrics import Metrics, serve
from streaming.offsets import TopicPartition
from streaming.progress import PartitionProgress, Progress

from .ingesting import P0, P1, Rig, log, session
from .sessions import SECOND, SETTINGS
from .test_labels import L0, L1, label
from .test_labels import Rig as LabelRig
from .test_labels import log as label_log

PREFIX = "sensorloop_ingest"


def progress(*partitions: PartitionProgress, **change: object) -> Progress:
    fields = {"partitions": partitions, "counters": {}, "held_bytes": 0, "paused": 0, "answering": True, **change}
    return Progress(**fields)  # type: ignore[arg-type]


def at(partition: TopicPartition, **change: object) -> PartitionProgress:
    fields = {
        "partition": partition, "position": 10, "end": 25, "open_sessions": 2, "waiting": 3, "open_since_ns": 5 * SECOND,
        "valid_through_ns": 4 * SECOND, **change,
    }  # fmt: skip
    return PartitionProgress(**fields)  # type: ignore[arg-type]


def test_an_ingestion_is_counted(tmp_path: Path) -> None:
    rig = Rig(tmp_path, {P0: log([*session(9), b"poison", session(9)[3]]), P1: log(session(5, "s2")[:-1])})
    metrics = Metrics()
    rig.ingest = Ingest(
        source=rig.source, table=rig.ingest._table, dead_letters=rig.dead_letters, windows=SETTINGS, settings=rig.settings,
        clock=rig.clock, watch=metrics.update,
    )  # fmt: skip
    counters = rig.until_caught_up()
    value = metrics.registry.get_sample_value
    for name in ("records", "bytes", "rows", "windows", "duplicate_batches"):
        assert value(f"{PREFIX}_{name}_total") == counters[name] > 0
    assert value(f"{PREFIX}_dead_letters_total", {"reason": "not_protobuf"}) == 1
    assert value(f"{PREFIX}_late_samples_total") == 0
    reasons = [value(f"{PREFIX}_commits_total", {"reason": reason}) for reason in ("size", "stop", "age")]
    assert sum(reasons) == counters["commits"] == value(f"{PREFIX}_commit_seconds_count")
    where = {"topic": "sensor.batches", "partition": "1"}
    assert value(f"{PREFIX}_lag_records", where) == 0
    assert value(f"{PREFIX}_held_bytes") == rig.ingest.held_bytes > 0
    assert value(f"{PREFIX}_oldest_open_window_timestamp_seconds") == 1_599_999_999
    assert value(f"{PREFIX}_valid_through_timestamp_seconds", where) == 1_599_999_999
    assert value(f"{PREFIX}_kafka_up") == 1


def test_a_partition_that_goes_takes_its_gauges_along() -> None:
    metrics = Metrics()
    metrics.update(progress(at(P0), at(P1)))
    value = metrics.registry.get_sample_value
    where = {"topic": "sensor.batches", "partition": "1"}
    assert value(f"{PREFIX}_lag_records", where) == 15
    metrics.update(progress(at(P0), answering=False, paused=1))
    assert value(f"{PREFIX}_lag_records", where) is None
    assert value(f"{PREFIX}_kafka_up") == 0
    assert value(f"{PREFIX}_paused_partitions") == 1
    metrics.update(progress(at(P0, valid_through_ns=None), at(P1, valid_through_ns=None)))
    metrics.update(progress())


def test_labels_that_come_later_are_counted_by_names_of_their_own(tmp_path: Path) -> None:
    logs = {L0: label_log([label(1), b"poison", label(2, None)]), L1: label_log([label(number) for number in range(5)])}
    rig = LabelRig(tmp_path, logs, commit_rows=5)
    metrics = Metrics()
    rig.ingest._watch = metrics.update_labels
    counters = rig.until_caught_up()
    value = metrics.registry.get_sample_value
    assert value(f"{PREFIX}_label_rows_total") == counters["labels"] == 7
    assert value(f"{PREFIX}_label_records_total") == counters["label_records"] == 8
    assert value(f"{PREFIX}_label_dead_letters_total", {"reason": "not_protobuf"}) == 1
    assert value(f"{PREFIX}_label_withdrawals_total") == 1
    reasons = [value(f"{PREFIX}_label_commits_total", {"reason": reason}) for reason in ("size", "stop")]
    assert reasons == [1, 1]
    assert value(f"{PREFIX}_label_commit_seconds_count") == counters["label_commits"] == 2
    assert value(f"{PREFIX}_lag_records", {"topic": "sensor.labels", "partition": "1"}) == 0
    assert value(f"{PREFIX}_rows_total") == value(f"{PREFIX}_records_total") == 0, "they are no windows"
    assert value(f"{PREFIX}_commit_seconds_count") == 0


def test_labels_and_batches_leave_each_other_s_gauges_alone() -> None:
    metrics = Metrics()
    metrics.update(progress(at(P0), paused=1))
    metrics.update_labels(progress(at(L0, waiting=7), paused=2))
    value = metrics.registry.get_sample_value
    of_labels = {"topic": "sensor.labels", "partition": "0"}
    assert value(f"{PREFIX}_lag_records", {"topic": "sensor.batches", "partition": "0"}) == 15
    assert value(f"{PREFIX}_lag_records", of_labels) == 15
    assert value(f"{PREFIX}_waiting_labels", of_labels) == 7
    assert value(f"{PREFIX}_waiting_windows", of_labels) is None
    assert value(f"{PREFIX}_paused_partitions") == 3
    metrics.update(progress())
    assert value(f"{PREFIX}_lag_records", of_labels) == 15
    assert value(f"{PREFIX}_paused_partitions") == 2
    metrics.update_labels(progress())
    assert value(f"{PREFIX}_lag_records", of_labels) is value(f"{PREFIX}_waiting_labels", of_labels) is None


def test_they_are_served_over_http() -> None:
    metrics = Metrics()
    metrics.update(progress(at(P0), counters={"records": 7, "dead_letters_empty": 2}))
    (port,) = ports.free_ports(1)
    stop = serve(metrics, "127.0.0.1", port)
    try:
        text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    finally:
        stop()
    assert f"{PREFIX}_records_total 7.0" in text
    assert f'{PREFIX}_dead_letters_total{{reason="empty"}} 2.0' in text


def test_a_port_that_is_taken_is_a_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(SettingsError, match=f"127.0.0.1:{port} .*metrics_port"):
            serve(Metrics(), "127.0.0.1", port)
