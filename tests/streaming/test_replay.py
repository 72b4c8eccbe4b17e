from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from kafka.errors import MessageSizeTooLargeError

from streaming.delivery import DeliverySettings
from streaming.errors import ClientError, RecordingError, SettingsError
from streaming.recording import write_recording
from streaming.replay import Pace, expected_samples, replay
from streaming.wire import CONTENT_TYPE, decode
from tests.fakes.producer import FakeProducer

from .test_delivery import CALM, NS, START, recording
from .test_recording import cast, put


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
    report = replay(folder, producer, "t", pace=Pace(), delivery=manners, progress=lambda *a: told.append(a))
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
    report = replay(folder, FakeProducer(), "t", pace=Pace(), delivery=CALM)
    assert report.sessions == 2
    ((path, reason),) = report.refused
    assert path.name == "1.parquet"
    assert "not a readable Parquet file" in reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (put("time_ns", 4, START), "row 4: time_ns is before the row above"),
        (put("x", 9, float("nan")), "row 9: x of accelerometer is not a finite number"),
        (put("sensor", 7, "barometer"), "row 7: unknown sensor 'barometer'"),
        (cast("x", pa.float64()), "column 'x' is double; it must be float"),
    ],
)
def test_a_bad_recording_is_named_with_its_row_and_is_neither_sent_nor_expected(
    folder: Path, change: Callable[[pa.Table], pa.Table], reason: str
) -> None:
    table = pq.read_table(folder / "1.parquet")
    pq.write_table(change(table.filter(pc.equal(table["sensor"], "accelerometer"))), folder / "1.parquet")
    producer = FakeProducer()
    report = replay(folder, producer, "t", pace=Pace(), delivery=CALM)
    ((path, why),) = report.refused
    assert path == folder / "1.parquet"
    assert f"{path}" in why
    assert reason in why
    sent = {
        decode(value, max_bytes=1 << 20, max_samples=1000, max_ahead_ns=NS, received_ns=START + 3600 * NS).session_id
        for _, value, _, _ in producer.records
    }
    assert sent == {"s0", "s2"}
    expected = expected_samples(folder, hop_ns=NS)
    assert set(expected["session_id"].to_list()) == sent, "what was refused is not lost"
    assert expected["samples"].sum() == report.samples


def test_speed_is_kept_on_a_clock(folder: Path) -> None:
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    replay(folder, FakeProducer(), "t", pace=Pace(speed=10), delivery=CALM, clock=lambda: now, sleep=sleep)
    assert now == pytest.approx((2 * 4 + 8 - 1) / 10)


def test_a_night_between_sessions_is_cut_to_the_longest_pause(folder: Path) -> None:
    """Only the silence: within the sessions, and in a shorter silence, the speed is kept."""
    write_recording(folder / "next.parquet", recording(8, session="next", start=START + 24 * 3600 * NS))
    write_recording(folder / "soon.parquet", recording(8, session="soon", start=START + (24 * 3600 + 38) * NS))
    now, waits = 0.0, []

    def sleep(seconds: float) -> None:
        nonlocal now
        waits.append(seconds)
        now += seconds

    pace = Pace(speed=10, longest_pause=timedelta(seconds=5))
    replay(folder, FakeProducer(), "t", pace=pace, delivery=CALM, clock=lambda: now, sleep=sleep)
    assert now == pytest.approx((2 * 4 + 8 - 1) / 10 + 5 + 0.7 + 3.1 + 0.7)
    assert max(waits) == pytest.approx(5)


@pytest.mark.parametrize("wrong", [{"speed": 0.0}, {"speed": float("inf")}, {"longest_pause": timedelta(seconds=-1)}])
def test_paces_that_cannot_be(wrong: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        Pace(**wrong)  # type: ignore[arg-type]


def test_a_batch_that_cannot_be_sent_is_an_error(folder: Path) -> None:
    producer = FakeProducer(fail_at=5, error=MessageSizeTooLargeError("too large"))
    with pytest.raises(ClientError, match=r"could not be sent to t: .*too large"):
        replay(folder, producer, "t", pace=Pace(), delivery=CALM)


def test_nothing_to_send_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match=r"no \.parquet file"):
        replay(tmp_path, FakeProducer(), "t", pace=Pace(), delivery=CALM)


def test_what_is_expected_in_the_lake(folder: Path) -> None:
    write_recording(folder / "odd.parquet", replace(recording(1, session="odd", start=START + 7), scene=None))
    frame = expected_samples(folder, hop_ns=NS)
    assert frame["samples"].sum() == (3 * 8 + 1) * 70
    one = frame.filter(session_id="s0", sensor="acc").sort("slot_ns")
    assert one["samples"].to_list() == [50] * 8
    assert one["slot_ns"].to_list() == [START + i * NS for i in range(8)]
