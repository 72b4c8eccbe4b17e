"""Whether every sample that was sent is in the lake, once.

A sample is *fresh* in exactly one window, the one whose first hop it falls into, and each window says how many are fresh in it.
So the samples sent, counted by device, session, sensor and hop, and the fresh ones of the windows must agree cell by cell;
what is missing in one cell is not made up for by a surplus in another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from streaming.lake import Lake, scan_windows
from streaming.replay import expected_samples
from streaming.sensors import SENSORS

_CELL = ["device_id", "session_id", "sensor", "slot_ns"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """Samples sent against samples in the lake."""

    sent: int
    """Of the sensors that the table has columns for."""
    unused: int
    """Sent by other sensors: [windows] sensors leaves them out."""
    lost: int
    """Sent, and not in the lake."""
    doubled: int
    """More often in the lake than sent."""
    windows: int
    """Windows of these sessions."""


def account(sent: pl.DataFrame, windows: pl.LazyFrame) -> Account:
    """Hold what was sent against the ``windows`` table.

    Args:
        sent: ``device_id session_id sensor slot_ns samples``: distinct samples, by sensor prefix and hop.
        windows: the table; sessions that were not sent are left out of the account.
    """
    columns = windows.collect_schema().names()
    present = [sensor.prefix for sensor in SENSORS.values() if f"{sensor.prefix}_fresh" in columns]
    sessions = sent.select("device_id", "session_id").unique().lazy()
    ours = windows.join(sessions, on=["device_id", "session_id"], how="semi")
    arrived = (
        ours.select("device_id", "session_id", pl.col("start_ns").alias("slot_ns"), *(f"{p}_fresh" for p in present))
        .rename({f"{p}_fresh": p for p in present})
        .unpivot(on=present, index=["device_id", "session_id", "slot_ns"], variable_name="sensor", value_name="arrived")
        .filter(pl.col("arrived") > 0)
        .group_by(_CELL)
        .agg(pl.col("arrived").cast(pl.Int64).sum())
    )
    kept = sent.lazy().filter(pl.col("sensor").is_in(present)).select(*_CELL, pl.col("samples").cast(pl.Int64))
    cells = kept.join(arrived, on=_CELL, how="full", coalesce=True).with_columns(
        pl.col("samples").fill_null(0), pl.col("arrived").fill_null(0)
    )
    short = pl.col("samples") - pl.col("arrived")
    totals = cells.select(
        pl.col("samples").sum(),
        short.clip(lower_bound=0).sum().alias("lost"),
        (-short).clip(lower_bound=0).sum().alias("doubled"),
    ).collect()
    unused = sent.filter(~pl.col("sensor").is_in(present))["samples"].sum()
    count = ours.select(pl.len()).collect().item()
    sent_total, lost, doubled = totals.row(0)
    return Account(
        sent=int(sent_total), unused=int(unused), lost=int(lost), doubled=int(doubled), windows=int(count)
    )  # fmt: skip


def account_of(
    directories: Sequence[Path], lake: Lake, *, hop_ns: int, refused: Callable[[str], None] | None = None
) -> Account:
    """Hold recordings that were replayed against the newest version of a lake.

    Args:
        directories: of recordings.
        lake: its settings, or its root folder.
        hop_ns: the windows' hop, ns.
        refused: told of each file that is refused and so was not sent: its path and the reason.

    Raises:
        RecordingError: one of the folders has not one usable recording.
        LakeError: there is no lake.
    """
    sent = [expected_samples(directory, hop_ns=hop_ns, refused=refused) for directory in directories]
    return account(pl.concat(sent), scan_windows(lake))
