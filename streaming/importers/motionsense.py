"""MotionSense (Malekzadeh et al., 2019, "Mobile Sensor Data Anonymization"): 24 people, an iPhone in a front pocket."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np

from streaming.importers.dataset import (
    STANDARD_GRAVITY,
    Findings,
    Format,
    ImportOptions,
    Segment,
    Session,
    made_up_starts,
    regular_times,
    within_slot,
)
from streaming.importers.text import find_root, read_table, require_columns
from streaming.recording import Samples

_RATE_HZ = 50.0
_SCENES = MappingProxyType(
    {"dws": "Stairs", "ups": "Stairs", "wlk": "Walk", "jog": "Run", "sit": "Still", "std": "Still"}
)
_TRIAL = re.compile(r"(?P<activity>[a-z]+)_(?P<trial>\d+)")
_FILE = re.compile(r"sub_(?P<subject>\d+)\.csv")
_COLUMNS = tuple(
    f"{quantity}.{axis}" for quantity in ("gravity", "userAcceleration", "rotationRate") for axis in ("x", "y", "z")
)
_SIGN = -1.0


def _sessions(source: Path, _options: ImportOptions, _findings: Findings) -> list[Session]:
    root = find_root(source, ("wlk_*/sub_*.csv",), "MotionSense's A_DeviceMotion_data")
    trials: dict[int, list[tuple[int, str, Path]]] = {}
    for path in sorted(root.glob("*_*/sub_*.csv")):
        trial, file = _TRIAL.fullmatch(path.parent.name), _FILE.fullmatch(path.name)
        if trial and file:
            key = (int(trial["trial"]), trial["activity"], path)
            trials.setdefault(int(file["subject"]), []).append(key)
    sessions = []
    for subject, found in sorted(trials.items()):
        starts = made_up_starts(len(found))
        for start_ns, (_, activity, path) in zip(starts, sorted(found), strict=True):
            sessions.append(
                Session(
                    subject=f"{subject:02d}",
                    file=path.relative_to(root).as_posix(),
                    start_ns=start_ns,
                    read=partial(_read, path, root, activity),
                )
            )
    return sessions


def _read(path: Path, root: Path, activity: str, findings: Findings) -> Iterable[Segment]:
    scene = _SCENES.get(activity)
    if scene is None:
        findings.refuse_file(path.relative_to(root).as_posix(), f"unknown activity '{activity}'")
        return
    table = read_table(path, root, columns=None, separator=",", findings=findings)
    require_columns(path, table, _COLUMNS)
    values = table.numbers(_COLUMNS)
    kept = table.complete(values, findings)
    lines, values = table.lines[kept], values[kept]
    rows = lines - 2  # line 1 is the header
    kept = within_slot(table.file, rows, lines, _RATE_HZ, findings)
    time_ns, values = regular_times(rows[kept], _RATE_HZ), values[kept]
    # Core Motion measures what pulls the phone, Android what holds it: at rest face up gravity.z is -1 g there, +9.81
    # m/s² here. The axes and the sense of rotation are the same.
    gravity, linear = (values[:, columns] * (_SIGN * STANDARD_GRAVITY) for columns in (slice(0, 3), slice(3, 6)))
    samples = {
        "accelerometer": gravity + linear,
        "gyroscope": values[:, 6:9],
        "linear_acceleration": linear,
        "gravity": gravity,
    }
    yield Segment(
        name=path.parent.name,
        scene=scene,
        samples={name: Samples(time_ns, np.ascontiguousarray(data, np.float32)) for name, data in samples.items()},
    )


MOTIONSENSE = Format(
    name="motionsense",
    summary=(
        "MotionSense, github.com/mmalekzadeh/motion-sense: unpack A_DeviceMotion_data.zip. Layout: "
        "<activity>_<trial>/sub_<n>.csv, 50 Hz, 24 people, one iPhone 6s in the front pocket. Acceleration is "
        "userAcceleration + gravity, in g with Core Motion's sign, so it is multiplied by -9.80665; linear acceleration "
        "and gravity likewise; the rotation rate is in rad/s already. ups, dws → Stairs; sit, std → Still; wlk → Walk; "
        "jog → Run. A session is one file. There are no times: sessions get a made-up clock."
    ),
    phone_model="iPhone 6s",
    position="front pocket",
    sessions=_sessions,
)
