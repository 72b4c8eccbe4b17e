"""Small lakes, written as ingestion writes them: a row a window, published by :class:`streaming.windows.WindowsTable`."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from streaming.assembler import ClosedWindows, SessionKey
from streaming.offsets import Account, TopicPartition
from streaming.rows import windows_table
from streaming.sensors import SENSORS
from streaming.settings import LakeSettings, WindowSettings
from streaming.windows import WindowsTable
from training.dataset import UNLABELLED, WindowSet
from training.evaluation import evaluate
from training.original import OriginalModel

from .made import RATE, network, windows

CUT = WindowSettings(
    length=timedelta(seconds=2), hop=timedelta(seconds=1), rate_hz=int(RATE), sensors=("accelerometer", "gyroscope"),
)  # fmt: skip
"""How the windows of :func:`tests.training.made.windows` are cut."""
SETTINGS = """
[windows]
length = 2
hop = 1
rate_hz = 50
sensors = ["accelerometer", "gyroscope"]
[data]
channels = ["acc_x", "acc_y", "acc_z"]
scenes = ["Run", "Still", "Walk"]
min_labelled = 20
"""
"""A ``sensorloop.toml`` for commands that work on such a lake."""
PARTITION = TopicPartition(topic="sensor.batches", partition=0)


def publish(
    lake: Path, windows: WindowSet, *, cohort: str = "target", cut: WindowSettings = CUT, phone: str = "made"
) -> int:
    """Append windows to the table in one commit; a sensor that is NaN all along was absent. Returns the lake's version."""
    table = WindowsTable(LakeSettings(uri=str(lake)), cut.sensors)
    found = table.position(PARTITION)
    before, after = found.offset or 0, (found.offset or 0) + len(windows)
    closed = [_closed(windows.select(np.array([at])), cohort, cut, phone) for at in range(len(windows))]
    rows = windows_table(
        closed, cut, topic=PARTITION.topic, partition=PARTITION.partition, ingested_at=datetime(2026, 1, 1, tzinfo=UTC)
    )
    account = Account(
        commit=found.commits + 1, from_offset=before, to_offset=after, read_to=after, batches=len(windows),
        windows=rows.num_rows, rows_before=table.rows(PARTITION),
    )  # fmt: skip
    return table.publish(rows, {PARTITION: account})


def of_people(name: str, made: WindowSet) -> WindowSet:
    """The same windows of other people with other phones."""
    people = np.array([f"{name}-{subject}" for subject in made.subjects])
    return replace(made, subjects=people, devices=people)


def publish_what_cannot_be_learned_from(home: Path) -> dict[str, str]:
    """A lake of cohorts with too few labels, a scene without any, and one person only; and an original model, untrained.

    Returns:
        Cohort → what rescoring must say is missing (a regular expression).
    """
    cohorts = {
        "few": windows(people=3, each=2),
        "one": windows(people=1, each=9),
        "no-run": windows(people=4, counts=(0, 6, 6)),
    }
    for cohort, made in cohorts.items():
        publish(home / "lake", of_people(cohort, made), cohort=cohort)
    net, made = network(), windows(people=2, each=2)
    found = evaluate(made.scenes, made.scenes, made.scene_names)
    original = OriginalModel(net=net, evaluation=found, holdout_subjects=(), lake_version=1, digest=net.digest())
    original.save(home / "original")
    return {
        "few": r"Too few labels: 18 labelled windows \(Run 6, Still 6, Walk 6\) of 3 people; at least 20 .*\[data\] min_labelled",
        "one": r"Too few people: 27 labelled windows .* of 1 people; at least 3 with labels are needed",
        "no-run": r"No labelled window of Run: 48 labelled windows .*\[data\] scenes",
    }


def _closed(window: WindowSet, cohort: str, cut: WindowSettings, phone: str) -> ClosedWindows:
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
        phone_model=phone, position="hips", starts_ns=window.start_ns,
        scenes=[None if scene == UNLABELLED else window.scene_names[scene]], signals=signals,
        coverage=dict.fromkeys(signals, window.coverage), max_gap_ms=dict.fromkeys(signals, np.zeros(1, np.float32)),
        fresh=dict.fromkeys(signals, one), samples=one, first_offsets=np.zeros(1, np.int64), last_offsets=np.zeros(1, np.int64),
        next_sequence=1,
    )  # fmt: skip
