from __future__ import annotations

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from streaming.account import account

SENT = {("d", "s", "acc", 0): 5, ("d", "s", "acc", 10): 5, ("d", "s", "gyr", 0): 3, ("e", "s", "acc", 0): 4}


def frames(arrived: dict[tuple[str, str, str, int], int]) -> tuple[pl.DataFrame, pl.LazyFrame]:
    sent = pl.DataFrame(
        [(*key, n) for key, n in SENT.items()],
        schema=["device_id", "session_id", "sensor", "slot_ns", "samples"],
        orient="row",
    )
    cells = sorted({(d, s, slot) for d, s, _, slot in arrived})
    rows = [
        {
            "device_id": d,
            "session_id": s,
            "start_ns": slot,
            **{f"{p}_fresh": arrived.get((d, s, p, slot), 0) for p in ("acc", "gyr")},
        }
        for d, s, slot in cells
    ]
    schema = {
        "device_id": pl.String,
        "session_id": pl.String,
        "start_ns": pl.Int64,
        "acc_fresh": pl.Int32,
        "gyr_fresh": pl.Int32,
    }
    return sent, pl.LazyFrame(rows, schema=schema)


def test_all_there() -> None:
    result = account(*frames(SENT))
    assert (result.sent, result.lost, result.doubled, result.windows) == (17, 0, 0, 3)


@given(st.lists(st.tuples(st.sampled_from(sorted(SENT)), st.integers(-3, 3)), max_size=4, unique_by=lambda t: t[0]))
def test_a_surplus_does_not_make_up_for_a_loss(changes: list[tuple[tuple[str, str, str, int], int]]) -> None:
    arrived = dict(SENT)
    for key, change in changes:
        arrived[key] += change
    result = account(*frames({k: v for k, v in arrived.items() if v}))
    assert result.lost == sum(-c for _, c in changes if c < 0)
    assert result.doubled == sum(c for _, c in changes if c > 0)


def test_sessions_that_were_not_sent_do_not_count() -> None:
    sent, windows = frames({**SENT, ("other", "x", "acc", 0): 7})
    assert account(sent, windows).doubled == 0


def test_a_window_twice_is_doubled() -> None:
    sent, windows = frames(SENT)
    result = account(sent, pl.concat([windows, windows.head(1)]))
    assert result.doubled == 8


def test_sensors_that_are_left_out_are_counted_apart() -> None:
    """As of phones that also send linear acceleration: neither lost, nor part of what must be there."""
    sent, windows = frames(SENT)
    extra = pl.DataFrame([("d", "s", "lac", 0, 7)], schema=sent.schema, orient="row")
    result = account(pl.concat([sent, extra]), windows)
    assert (result.sent, result.unused, result.lost, result.doubled) == (17, 7, 0, 0)
