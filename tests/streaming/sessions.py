"""Batches of made-up sessions, for the tests of windows and ingestion."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np

from streaming.assembler import Assembler, ClosedWindows
from streaming.settings import WindowSettings
from streaming.wire import SensorBatch, SensorBlock

SECOND = 1_000_000_000
EPOCH = 1_600_000_000 * SECOND
NOW = datetime(2026, 1, 1, tzinfo=UTC)
SETTINGS = WindowSettings(
    length=timedelta(seconds=2), hop=timedelta(seconds=1), rate_hz=20, sensors=("accelerometer", "pressure"),
    lateness=timedelta(seconds=3), max_gap=timedelta(milliseconds=400), idle_timeout=timedelta(minutes=1),
)  # fmt: skip


def batch(
    sequence: int,
    *,
    session: str = "s1",
    device: str = "d1",
    start_ns: int | None = None,
    samples: int = 25,
    rate_hz: int = 25,
    scene: str | None = "Walk",
    end: bool = False,
) -> SensorBatch:
    """A second of a smooth signal; batch n of a session starts n seconds after the epoch of these tests."""
    start = EPOCH + sequence * SECOND if start_ns is None else start_ns
    times = start + np.arange(samples) * (SECOND // rate_hz)
    phase = (times - EPOCH)[:, None] / SECOND + np.arange(3)
    accelerometer = SensorBlock(
        sensor="accelerometer", axes=("x", "y", "z"), values=np.sin(phase).astype(np.float32), start_ns=start,
        period_ns=SECOND // rate_hz, offsets_us=None,
    )  # fmt: skip
    return SensorBatch(
        device_id=device, session_id=session, sequence=sequence, subject_id=f"subject-of-{device}", phone_model="P1",
        position="hips", cohort="source", scene=scene, end_of_session=end, blocks=(accelerometer,) if samples else (),
    )  # fmt: skip


def close_all_idle(assembler: Assembler, now: datetime) -> list[ClosedWindows]:
    """Close every session that is idle, as a step of ingestion does."""
    closed: list[ClosedWindows] = []
    while assembler.idle(now):
        closed += assembler.close_idle(now)
    return closed + assembler.flush()
