"""Small lakes, written as ingestion writes them: a row a window, published by :class:`streaming.lake.WindowsTable`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from streaming.assembler import ClosedWindows, SessionKey
from streaming.lake import TopicPartition, WindowsTable
from streaming.rows import windows_table
from streaming.sensors import SENSORS
from streaming.settings import LakeSettings, WindowSettings
from training.dataset import UNLABELLED, WindowSet

from .made import RATE

CUT = WindowSettings(
    length=timedelta(seconds=2), hop=timedelta(seconds=1), rate_hz=int(RATE), sensors=("accelerometer", "gyroscope"),
)  # fmt: skip
"""How the windows of :func:`tests.training.made.windows` are cut."""
PARTITION = TopicPartition(topic="sensor.batches", partition=0)


def publish(lake: Path, windows: WindowSet, *, cohort: str = "target", cut: WindowSettings = CUT) -> int:
    """Append windows to the table in one commit; a sensor that is NaN all along was absent. Returns the lake's version."""
    table = WindowsTable(LakeSettings(uri=str(lake)), cut.sensors)
    before = table.offset(PARTITION)
    closed = [_closed(windows.select(np.array([at])), cohort, cut) for at in range(len(windows))]
    rows = windows_table(
        closed, cut, topic=PARTITION.topic, partition=PARTITION.partition, ingested_at=datetime(2026, 1, 1, tzinfo=UTC)
    )
    return table.publish(rows, {PARTITION: (before, (before or 0) + len(windows))})


def _closed(window: WindowSet, cohort: str, cut: WindowSettings) -> ClosedWindows:
    signals = {}
    for name in cut.sensors:
        channels = [channel for channel in SENSORS[name].channels if channel in window.channels]
        values = window.with_channels(channels).signals
        if channels and not np.isnan(values).all():
            signals[name] = values
    scene = int(window.scenes[0])
    one = np.ones(1, np.int32)
    return ClosedWindows(
        key=SessionKey(str(window.devices[0]), str(window.sessions[0])), subject_id=str(window.subjects[0]), cohort=cohort,
        phone_model="made", position="hips", starts_ns=window.start_ns,
        scenes=[None if scene == UNLABELLED else window.scene_names[scene]], signals=signals,
        coverage=dict.fromkeys(signals, window.coverage), max_gap_ms=dict.fromkeys(signals, np.zeros(1, np.float32)),
        fresh=dict.fromkeys(signals, one), samples=one, first_offsets=np.zeros(1, np.int64), last_offsets=np.zeros(1, np.int64),
        next_sequence=1,
    )  # fmt: skip
