from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from kafka.errors import KafkaTimeoutError

from streaming.errors import ClientError, LabelError
from streaming.label_wire import LABEL_HEADERS, SceneLabel, decode_label
from streaming.labelling import checked, parse_time, read_labels, send_labels
from tests.fakes.producer import FakeProducer

NOW = datetime(2026, 2, 1, 12, tzinfo=UTC)
NOW_NS = int(NOW.timestamp()) * 10**9
DAY = timedelta(days=1)
EIGHT = 1_769_846_400_000_000_000
"""2026-01-31T08:00:00Z."""


def read(path: Path) -> tuple[list[SceneLabel], list[str]]:
    return read_labels(path, said_by="ana", max_ahead=DAY, now=NOW)


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-31T08:00:00Z", "2026-01-31 09:00:00+01:00", str(EIGHT), EIGHT, datetime(2026, 1, 31, 8, tzinfo=UTC),
        datetime(2026, 1, 31, 3, tzinfo=timezone(timedelta(hours=-5))),
    ],
)  # fmt: skip
def test_a_time_is_a_moment(text: Any) -> None:
    assert parse_time(text) == EIGHT


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2026-01-31T08:00:00", "has no time zone: write 2026-01-31T08:00:00Z"),
        ("yesterday", "'yesterday' is no time: write 2026-01-31T08:00:00Z"),
        ("", "is no time"),
        (1.5, "is no time"),
        (True, "is no time"),
    ],
)
def test_what_is_no_moment_is_refused(text: Any, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        parse_time(text)


def made(**change: Any) -> SceneLabel:
    fields = {
        "device_id": "d",
        "start_ns": EIGHT,
        "end_ns": EIGHT + 1,
        "scene": "Bus",
        "said_by": "ana",
        "said_ns": EIGHT,
    }
    return SceneLabel(**fields | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"end_ns": EIGHT}, "not after its start"),
        ({"said_ns": NOW_NS + 2 * 86_400 * 10**9}, r"\[windows\] max_ahead"),
        ({"device_id": ""}, "device_id is empty"),
        ({"scene": "x" * 65}, "longer than 64 characters"),
        ({"end_ns": 2**63}, "cannot be encoded"),
    ],
)
def test_what_the_consumer_would_refuse_is_not_sent(change: dict[str, Any], message: str) -> None:
    with pytest.raises(LabelError, match=message):
        checked(made(**change), max_ahead=DAY, now=NOW)


def test_a_csv_file(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(
        "\ufeffdevice_id,start,end,scene,session_id,said\n"
        f"phone 1,2026-01-31T08:00:00Z,2026-01-31T09:00:00+00:00,Bus,monday,\n"
        f'"p,2",{EIGHT},{EIGHT + 5},,,2026-02-01T00:00:00Z\n',
        encoding="utf-8",
    )
    labels, refused = read(path)
    assert refused == []
    assert labels == [
        SceneLabel(
            device_id="phone 1", session_id="monday", start_ns=EIGHT, end_ns=EIGHT + 3_600 * 10**9, scene="Bus", said_by="ana",
            said_ns=NOW_NS,
        ),
        SceneLabel(
            device_id="p,2", start_ns=EIGHT, end_ns=EIGHT + 5, scene=None, said_by="ana", said_ns=NOW_NS - 12 * 3_600 * 10**9
        ),
    ]  # fmt: skip


def test_a_parquet_file(tmp_path: Path) -> None:
    path = tmp_path / "labels.parquet"
    pl.DataFrame(
        {
            "device_id": ["a", "b"], "start": [datetime(2026, 1, 31, 8, tzinfo=UTC)] * 2,
            "end": [datetime(2026, 1, 31, 9, tzinfo=UTC)] * 2, "scene": ["Bus", None], "said_by": ["bob", None],
        }
    ).write_parquet(path)  # fmt: skip
    labels, refused = read(path)
    assert refused == []
    assert [(label.device_id, label.scene, label.said_by) for label in labels] == [
        ("a", "Bus", "bob"),
        ("b", None, "ana"),
    ]
    assert {label.start_ns for label in labels} == {EIGHT}


def test_a_bad_row_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    rows = [
        f"d,{EIGHT},{EIGHT + 1},Bus", f"d,{EIGHT + 1},{EIGHT},Bus", f",{EIGHT},{EIGHT + 1},Bus", "d,2026-01-31,,Bus",
        f"d,2026-01-31T08:00,{EIGHT + 1},Bus",
    ]  # fmt: skip
    path = tmp_path / "labels.csv"
    path.write_text("\n".join(["device_id,start,end,scene", *rows]), encoding="utf-8")
    labels, refused = read(path)
    assert len(labels) == 1
    assert [line.removeprefix(str(path)).split(": ")[0] for line in refused] == [":3", ":4", ":5", ":6"]
    assert ["not after" in refused[0], "device_id is empty" in refused[1], "end is empty" in refused[2]] == [True] * 3
    assert "no time zone" in refused[3]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("labels.txt", "", "a file of labels is .csv or .parquet"),
        ("labels.csv", "", "lacks device_id, start, end, scene"),
        ("labels.csv", "device_id,start,end,scene,session\n", "has session"),
        ("labels.csv", "device_id,start,end,scene,scene\n", "has one twice"),
        ("labels.csv", "device_id,start,end,scene\nd,1,2\n", r"labels.csv:2: has another number of fields"),
        ("labels.csv", "device_id,start,end,scene\nd,1,2,Bus,?\n", r"labels.csv:2: has another number of fields"),
        ("labels.csv", 'device_id,start,end,scene\n"d"x,1,2,Bus\n', "cannot be read"),
        ("labels.parquet", "no parquet", "cannot be read"),
        ("missing.csv", None, "cannot be read"),
    ],
)
def test_what_is_no_file_of_labels_is_a_sentence(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(LabelError, match=message):
        read(path)


def test_labels_are_sent_by_device_with_their_format(tmp_path: Path) -> None:
    producer = FakeProducer()
    send_labels(producer, "t", [made(), made(device_id="e")])
    assert producer.flushed == 2
    assert [(topic, key, headers) for topic, _, key, headers in producer.records] == [
        ("t", b"d", list(LABEL_HEADERS)), ("t", b"e", list(LABEL_HEADERS)),
    ]  # fmt: skip
    assert decode_label(producer.records[0][1], max_ahead_ns=0, received_ns=NOW_NS) == made()


def test_a_label_that_kafka_refuses_is_said() -> None:
    producer = FakeProducer(fail_at=1, error=KafkaTimeoutError("too slow"))
    with pytest.raises(ClientError, match=r"A label could not be sent to t: .*too slow"):
        send_labels(producer, "t", [made(), made()])
