"""Which label counts, against a reference that looks at every label of every window."""

from __future__ import annotations

import time
from fractions import Fraction
from typing import Any

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from training.labels import newest_labels

SCENES = ("Bus", "Walk", None)
WINDOW = {"device_id": pl.String, "session_id": pl.String, "start_ns": pl.Int64, "end_ns": pl.Int64, "scene": pl.String}
LABEL = WINDOW | {
    "said_by": pl.String,
    "said_ns": pl.Int64,
    "topic": pl.String,
    "kafka_partition": pl.Int32,
    "kafka_offset": pl.Int64,
}


def windows(*rows: dict[str, Any]) -> pl.DataFrame:
    made = [{"device_id": "d", "session_id": "s", "start_ns": 100, "end_ns": 110, "scene": None} | row for row in rows]
    return pl.DataFrame(made, schema=WINDOW)


def labels(*rows: dict[str, Any]) -> pl.DataFrame:
    made = [
        {
            "device_id": "d", "session_id": None, "start_ns": 100, "end_ns": 110, "scene": "Walk", "said_by": f"{at}",
            "said_ns": 1000, "topic": "t", "kafka_partition": 0, "kafka_offset": at,
        } | row
        for at, row in enumerate(rows)
    ]  # fmt: skip
    return pl.DataFrame(made, schema=LABEL)


def of_one(label_rows: list[dict[str, Any]], **window: Any) -> str | None:
    (scene,) = newest_labels(windows(window), labels(*label_rows))["scene"].to_list()
    return scene


def reference(window: dict[str, Any], said: list[dict[str, Any]]) -> tuple[str | None, str | None]:
    """The rule, word by word: the scene, and who said it."""
    statements: list[tuple[Any, tuple[str | None, str | None]]] = []
    if window["scene"] is not None:
        statements.append(((window["end_ns"], 0), (window["scene"], None)))
    for label in said:
        overlap = min(window["end_ns"], label["end_ns"]) - max(window["start_ns"], label["start_ns"])
        if (
            label["device_id"] == window["device_id"]
            and label["session_id"] in {None, window["session_id"]}
            and overlap > Fraction(window["end_ns"] - window["start_ns"], 2)
        ):
            order = (label["said_ns"], 1, label["kafka_offset"], label["kafka_partition"], label["topic"])
            statements.append((order, (label["scene"], label["said_by"])))
    return max(statements, key=lambda each: each[0])[1] if statements else (None, None)


@st.composite
def moments(draw: st.DrawFn) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Few devices, sessions and times, so that everything meets; windows of several lengths, also odd ones, in any order."""
    devices, sessions = st.sampled_from(["a", "b"]), st.sampled_from(["s", "t"])
    base = draw(st.sampled_from([0, 1_700_000_000_000_000_000]))
    times = st.integers(0, 30)

    def interval(start: int, length: int) -> dict[str, int]:
        return {"start_ns": base + start, "end_ns": base + start + length}

    window = st.builds(
        lambda d, s, start, length, scene: {"device_id": d, "session_id": s, "scene": scene, **interval(start, length)},
        devices, sessions, times, st.sampled_from([4, 5, 7]), st.sampled_from(SCENES),
    )  # fmt: skip
    label = st.builds(
        lambda d, s, start, length, scene, said: {
            "device_id": d, "session_id": s, "scene": scene, "said_ns": base + said, **interval(start, length),
        },
        st.sampled_from(["a", "b", "c"]), st.none() | sessions, times, st.integers(1, 25), st.sampled_from(SCENES),
        st.integers(0, 45),
    )  # fmt: skip
    said = draw(st.lists(label, max_size=14))
    places = draw(st.permutations([(offset, partition) for offset in range(7) for partition in range(2)]))
    rows = [
        row | {"kafka_offset": offset, "kafka_partition": partition}
        for row, (offset, partition) in zip(said, places, strict=False)
    ]
    return windows(*draw(st.lists(window, max_size=14))), labels(*rows)


@given(moments())
def test_it_is_what_the_rule_says(made: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    frame, said = made
    found = newest_labels(frame, said)
    assert found.schema == {"scene": pl.String, "said_by": pl.String}
    assert found.rows() == [reference(window, said.to_dicts()) for window in frame.to_dicts()]


def test_a_label_counts_if_it_covers_more_than_half() -> None:
    assert of_one([{"start_ns": 0, "end_ns": 106}]) == "Walk"
    assert of_one([{"start_ns": 0, "end_ns": 105}]) is None
    assert of_one([{"start_ns": 105, "end_ns": 500}]) is None
    assert of_one([{"start_ns": 104, "end_ns": 500}]) == "Walk"
    assert of_one([{"start_ns": 102, "end_ns": 108}]) == "Walk"
    assert of_one([{"start_ns": 102, "end_ns": 107}]) is None
    halves = [{"start_ns": 100, "end_ns": 105}, {"start_ns": 105, "end_ns": 110}]
    assert of_one(halves) is None, "two that say the same are two labels"


def test_the_newest_counts_whatever_the_order_of_the_rows() -> None:
    revised = [{"scene": "Bus", "said_ns": 3000}, {"scene": "Walk", "said_ns": 2000}]
    assert of_one(revised) == of_one(revised[::-1]) == "Bus"
    assert of_one([{"scene": "Bus"}, {"scene": "Walk"}]) == "Walk", "of one moment: the later in Kafka"


def test_a_label_inside_a_batch_was_said_at_the_windows_end() -> None:
    assert of_one([{"said_ns": 111}], scene="Bus") == "Walk"
    assert of_one([{"said_ns": 110}], scene="Bus") == "Walk"
    assert of_one([{"said_ns": 109}], scene="Bus") == "Bus"
    assert of_one([{"said_ns": 109}]) == "Walk", "nothing said inside is no label"


def test_a_withdrawal_leaves_none_until_somebody_says_something_newer() -> None:
    withdrawn = {"scene": None, "said_ns": 2000}
    assert of_one([{"scene": "Bus"}, withdrawn], scene="Walk") is None
    assert of_one([withdrawn, {"scene": "Bus", "said_ns": 3000}], scene="Walk") == "Bus"


def test_another_device_or_session_is_not_meant() -> None:
    assert of_one([{"device_id": "other"}], scene="Bus") == "Bus"
    assert of_one([{"session_id": "other"}], scene="Bus") == "Bus"
    assert of_one([{"session_id": "s"}], scene="Bus") == "Walk"


def test_a_million_windows_and_a_hundred_thousand_labels_take_seconds() -> None:
    """Ten times that is what a busy machine may take; looking at each pair would take hours."""
    rng = np.random.default_rng(0)
    count, said = 1_000_000, 100_000
    device = np.sort(rng.integers(0, 1000, count))
    starts = np.arange(count) * 2_500_000_000
    frame = pl.DataFrame(
        {
            "device_id": device.astype(str), "session_id": (np.arange(count) // 500).astype(str), "start_ns": starts,
            "end_ns": starts + 5_000_000_000, "scene": pl.Series(["Walk"] * count),
        }
    )  # fmt: skip
    about = rng.integers(0, count, said)
    begin = starts[about] - rng.integers(0, 10**11, said)
    made = pl.DataFrame(
        {
            "device_id": device[about].astype(str), "session_id": pl.Series([None] * said, dtype=pl.String), "start_ns": begin,
            "end_ns": begin + rng.integers(1, 10**13, said), "scene": pl.Series(["Bus"] * said), "said_by": np.arange(said).astype(str),
            "said_ns": starts[about] + 10**15,
            "topic": pl.Series(["t"] * said), "kafka_partition": np.zeros(said, np.int32), "kafka_offset": np.arange(said),
        }
    )  # fmt: skip
    begun = time.process_time()
    found = newest_labels(frame, made)
    seconds = time.process_time() - begun
    assert seconds < 30
    sample = rng.integers(0, count, 20)
    for at in sample.tolist():
        window = frame.row(at, named=True)
        near = made.filter(pl.col("device_id") == window["device_id"]).to_dicts()
        assert found.row(at) == reference(window, near)
