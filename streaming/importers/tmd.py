"""TMD (Carpineti et al., 2018, "Custom Dual Transportation Mode Detection by Smartphone Devices"): Android event logs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from streaming.importers.dataset import Findings, Format, ImportOptions, Segment, Session
from streaming.importers.text import Table, find_root, read_table
from streaming.recording import Samples
from streaming.sensors import SENSORS

_PATTERNS = ("sensorfile_*.csv", "U*/sensorfile_*.csv")
_FILE = re.compile(r"sensorfile_(?P<user>\w{1,16}?)_(?P<mode>[A-Za-z]+)_(?P<epoch_ms>\d{13})\.csv")
_SCENES = MappingProxyType({"Still": "Still", "Walking": "Walk", "Car": "Car", "Bus": "Bus", "Train": "Train"})
_SENSORS = MappingProxyType(
    {
        "android.sensor.accelerometer": "accelerometer",
        "android.sensor.gyroscope": "gyroscope",
        "android.sensor.magnetic_field": "magnetometer",
        "android.sensor.linear_acceleration": "linear_acceleration",
        "android.sensor.gravity": "gravity",
        "android.sensor.pressure": "pressure",
    }
)
_COLUMNS = ("ms", "sensor", "x", "y", "z")
_DAY_MS = 24 * 3600 * 1000
_START_MS = 1000
"""A step back to less than this is the logger starting over; one to more is the phone's clock being set."""
_PAUSE_MS = 1000
"""Between the parts of a log that started over; how long it really was, nobody knows."""


def _sessions(source: Path, _options: ImportOptions, findings: Findings) -> list[Session]:
    root = find_root(source, _PATTERNS, "TMD's raw data")
    sessions = []
    for path in sorted(path for pattern in _PATTERNS for path in root.glob(pattern)):
        file = path.relative_to(root).as_posix()
        match = _FILE.fullmatch(path.name)
        if match is None or match["mode"] not in _SCENES:
            modes = ", ".join(_SCENES)
            findings.refuse_file(file, f"its name is not sensorfile_USER_MODE_MILLISECONDS.csv with a mode of {modes}")
            continue
        session = Session(
            subject=match["user"],
            file=file,
            start_ns=int(match["epoch_ms"]) * 10**6,
            read=partial(_read, path, root, match["mode"], match["epoch_ms"]),
        )
        sessions.append(session)
    return sorted(sessions, key=lambda session: (session.subject, session.start_ns, session.file))


def _read(path: Path, root: Path, mode: str, epoch_ms: str, findings: Findings) -> Iterable[Segment]:
    table = read_table(path, root, columns=_COLUMNS, separator=",", findings=findings, ragged=True)
    known = table.columns["sensor"].is_in(list(_SENSORS)).fill_null(value=False).to_numpy()
    for sensor, count in table.columns["sensor"].filter(~known).fill_null("").value_counts().iter_rows():
        findings.note(f"rows of '{sensor}' left out", count)
    table = table.where(known)
    ms = table.numbers(["ms"])
    ms[(ms < 0) | (ms > _DAY_MS)] = np.nan
    timed = table.complete(ms, findings)
    table = table.where(timed)
    time_ms, part = _unfold(np.rint(ms[timed, 0]).astype(np.int64), findings)
    sensors = {name: _values(table, logged, name, findings) for logged, name in _SENSORS.items()}
    for number in range(int(part[-1]) + 1 if len(part) else 0):
        samples = {}
        for name, (rows, values) in sensors.items():
            own = part[rows] == number
            samples[name] = Samples(time_ms[rows[own]] * 10**6, values[own])
        yield Segment(name=f"{epoch_ms}-{mode}-{number + 1}", scene=_SCENES[mode], samples=samples)


def _unfold(ms: NDArray[np.int64], findings: Findings) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Times that only go forward, for rows that were logged in the order in which they happened.

    Sorting would mix what was measured at different moments, and dropping would lose it: so everything after a step
    back is moved on instead, and stays up to 1.5 s off for as long as the log lasts.

    Args:
        ms: (n,) ms since the start of the log, by a clock that may step back.
        findings: takes the number of steps.

    Returns:
        (n,) ms, never decreasing; (n,) which part of the log, from 0.
    """
    if not len(ms):
        return ms, ms
    steps = np.diff(ms)
    back = steps < 0
    restarts = back & (ms[1:] < _START_MS)
    findings.note("times the phone's clock was set back, later times moved on", int(np.sum(back & ~restarts)))
    findings.note("times the log started over, cut there", int(np.sum(restarts)))
    steps[back] = int(np.median(steps[~back])) if not back.all() else _PAUSE_MS
    steps[restarts] = _PAUSE_MS
    time_ms = ms[0] + np.concatenate([[0], np.cumsum(steps)])
    return time_ms, np.concatenate([[0], np.cumsum(restarts)])


def _values(table: Table, logged: str, name: str, findings: Findings) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Which rows are this sensor's, and their values (rows, axes)."""
    own = (table.columns["sensor"] == logged).to_numpy()
    part = table.where(own)
    values = part.numbers(SENSORS[name].axes)
    kept = part.complete(values, findings)
    return np.flatnonzero(own)[kept], np.ascontiguousarray(values[kept], np.float32)


TMD = Format(
    name="tmd",
    summary=(
        "TMD, Transportation Mode Detection (University of Bologna, cs.unibo.it/projects/us-tm2017): unpack the raw "
        "data. Layout: sensorfile_<user>_<Mode>_<epoch ms>.csv in one folder or in one a user; a line is ms since the "
        "start, sensor name, values. Android's units and signs, so nothing is converted; the times are true. All "
        "sensors together log under 20 events a second. Walking → Walk; Still, Car, Bus, Train as they are. Sensors "
        "that are not in the catalogue are left out. Where the phone's clock was set back, later times are moved on; "
        "where the log started over, it is cut; gaps stay gaps."
    ),
    phone_model="unknown",
    position="unknown",
    sessions=_sessions,
)
