from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from kafka.errors import MessageSizeTooLargeError

from streaming.delivery import DeliverySettings
from streaming.errors import ClientError, RecordingError
from streaming.recording import write_recording
from streaming.replay import expected_samples, replay
from streaming.wire import CONTENT_TYPE, decode
from tests.fakes.producer import FakeProducer

from .test_delivery import CALM, NS, START, recording


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(3):
        write_recording(
            tmp_path / f"{i}.parquet", recording(8, session=f"s{i}", device=f"d{i % 2}", start=START + i * 4 * NS)
        )
    return tmp_path


def test_everything_is_sent_and_counted(folder: Path) -> None:
    producer, told = FakeProducer(), []
    manners = DeliverySettings(repeat_rate=0.5)
    report = replay(folder, producer, "t", speed=None, delivery=manners, progress=lambda *a: told.append(a))
    assert (report.sessions, report.batches, report.samples) == (3, 24, 3 * 8 * 70)
    assert report.repeats == len(producer.records) - 24 > 0
    assert report.bytes > report.samples * 4
    assert producer.flushed == len(producer.records)
    assert told[-1] == (3, 3)
    topic, value, key, headers = producer.records[0]
    batch = decode(value, max_bytes=1 << 20, max_samples=1000, max_ahead_ns=NS, received_ns=START + 3600 * NS)
    assert (topic, key, dict(headers)["content-type"]) == ("t", batch.device_id.encode(), CONTENT_TYPE.encode())


def test_a_recording_that_is_refused_is_reported_and_the_rest_is_sent(folder: Path) -> None:
    (folder / "1.parquet").write_bytes(b"not parquet")
    report = replay(folder, FakeProducer(), "t", speed=None, delivery=CALM)
    assert report.sessions == 2
    ((path, reason),) = report.refused
    assert path.name == "1.parquet"
    assert "not a readable Parquet file" in reason


def test_speed_is_kept_on_a_clock(folder: Path) -> None:
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    replay(folder, FakeProducer(), "t", speed=10, delivery=CALM, clock=lambda: now, sleep=sleep)
    assert now == pytest.approx((2 * 4 + 8 - 1) / 10)


def test_a_batch_that_cannot_be_sent_is_an_error(folder: Path) -> None:
    producer = FakeProducer(fail_at=5, error=MessageSizeTooLargeError("too large"))
    with pytest.raises(ClientError, match=r"could not be sent to t: .*too large"):
        replay(folder, producer, "t", speed=None, delivery=CALM)


def test_nothing_to_send_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match=r"no \.parquet file"):
        replay(tmp_path, FakeProducer(), "t", speed=None, delivery=CALM)


def test_what_is_expected_in_the_lake(folder: Path) -> None:
    write_recording(folder / "odd.parquet", replace(recording(1, session="odd", start=START + 7), scene=None))
    frame = expected_samples(folder, hop_ns=NS)
    assert frame["samples"].sum() == (3 * 8 + 1) * 70
    one = frame.filter(session_id="s0", sensor="acc").sort("slot_ns")
    assert one["samples"].to_list() == [50] * 8
    assert one["slot_ns"].to_list() == [START + i * NS for i in range(8)]
