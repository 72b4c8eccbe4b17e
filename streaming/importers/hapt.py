"""HAPT (Reyes-Ortiz et al., 2016, "Transition-Aware Human Activity Recognition Using Smartphones"): 30 people, waist."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

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
from streaming.importers.text import find_root, read_table
from streaming.recording import Samples

_RATE_HZ = 50.0
_SCENES = MappingProxyType({1: "Walk", 2: "Stairs", 3: "Stairs", 4: "Still", 5: "Still", 6: "Still"})
_TRANSITIONS = range(7, 13)
_FILE = re.compile(r"acc_exp(?P<experiment>\d+)_user(?P<user>\d+)\.txt")
_LABELS = "labels.txt"
_LABEL_COLUMNS = ("experiment", "user", "activity", "first", "last")


class _Label(NamedTuple):
    line: int
    activity: int
    first: int
    last: int


class _Signal(NamedTuple):
    rows: NDArray[np.int64]
    values: NDArray[np.float32]
    length: int


def _sessions(source: Path, _options: ImportOptions, findings: Findings) -> list[Session]:
    root = find_root(source, (_LABELS,), "HAPT's RawData")
    experiments: dict[int, list[tuple[int, Path]]] = {}
    for path in sorted(root.glob("acc_exp*_user*.txt")):
        if match := _FILE.fullmatch(path.name):
            experiments.setdefault(int(match["user"]), []).append((int(match["experiment"]), path))
    labels = _labels(root, {(found[0], user) for user in experiments for found in experiments[user]}, findings)
    sessions = []
    for user, found in sorted(experiments.items()):
        for start_ns, (experiment, path) in zip(made_up_starts(len(found)), sorted(found), strict=True):
            sessions.append(
                Session(
                    subject=f"{user:02d}",
                    file=path.name,
                    start_ns=start_ns,
                    read=partial(_read, path, f"exp{experiment:02d}", labels.get((experiment, user), [])),
                )
            )
    return sessions


def _labels(root: Path, known: set[tuple[int, int]], findings: Findings) -> dict[tuple[int, int], list[_Label]]:
    """The usable labels of each (experiment, user), by time."""
    table = read_table(root / _LABELS, root, columns=_LABEL_COLUMNS, separator=None, findings=findings)
    numbers = table.numbers(_LABEL_COLUMNS)
    kept = table.complete(numbers, findings)
    labels: dict[tuple[int, int], list[_Label]] = {}
    for line, row in zip(table.lines[kept].tolist(), numbers[kept].astype(np.int64).tolist(), strict=True):
        experiment, user, activity, first, last = row
        if (experiment, user) not in known:
            reason = f"there is no acc_exp{experiment:02d}_user{user:02d}.txt"
        elif activity not in _SCENES and activity not in _TRANSITIONS:
            reason = f"unknown activity {activity}"
        elif not 1 <= first <= last:
            reason = f"samples {first} to {last} are no stretch of a signal"
        else:
            labels.setdefault((experiment, user), []).append(_Label(line, activity, first, last))
            continue
        findings.refuse_lines(_LABELS, np.array([line]), reason)
    return {key: sorted(found, key=lambda label: label.first) for key, found in labels.items()}


def _read(path: Path, name: str, labels: list[_Label], findings: Findings) -> Iterable[Segment]:
    signals = {"accelerometer": _signal(path, STANDARD_GRAVITY, findings)}
    gyroscope = path.with_name(path.name.replace("acc_", "gyro_", 1))
    if gyroscope.exists():
        signals["gyroscope"] = _signal(gyroscope, 1.0, findings)
    else:
        findings.refuse_file(gyroscope.name, "there is no such file; the experiment has its accelerometer alone")
    length = max(signal.length for signal in signals.values())
    stop = labelled = 0
    for number, label in enumerate(labels, start=1):
        fault = _fault(label, stop, length)
        if fault:
            reason = f"{name}: samples {label.first} to {label.last} {fault}"
            findings.refuse_lines(_LABELS, np.array([label.line]), reason)
            continue
        labelled += label.last - label.first + 1
        stop = label.last
        scene = _SCENES.get(label.activity)
        if scene is None:
            findings.note("samples of postural transitions left out", label.last - label.first + 1)
            continue
        samples = {sensor: _cut(signal, label) for sensor, signal in signals.items()}
        yield Segment(name=f"{name}-{number:03d}", scene=scene, samples=samples)
    findings.note("samples without a label left out", length - labelled)


def _fault(label: _Label, stop: int, length: int) -> str | None:
    if label.first <= stop:
        return f"overlap the label before, which ends at {stop}"
    return f"go past the end of the signal, {length}" if label.last > length else None


def _signal(path: Path, factor: float, findings: Findings) -> _Signal:
    table = read_table(path, path.parent, columns=("x", "y", "z"), separator=None, findings=findings)
    values = table.numbers(("x", "y", "z"))
    length = int(table.lines[-1]) if len(table.lines) else 0
    kept = table.complete(values, findings)
    lines, values = table.lines[kept], values[kept]
    kept = within_slot(table.file, lines - 1, lines, _RATE_HZ, findings)
    return _Signal(lines[kept] - 1, np.ascontiguousarray(values[kept] * factor, np.float32), length)


def _cut(signal: _Signal, label: _Label) -> Samples:
    """The samples of a label, whose numbers count from 1 and include the last."""
    start, stop = np.searchsorted(signal.rows, [label.first - 1, label.last])
    return Samples(regular_times(signal.rows[start:stop], _RATE_HZ), signal.values[start:stop])


HAPT = Format(
    name="hapt",
    summary=(
        "HAPT (Smartphone-Based Recognition of Human Activities and Postural Transitions, UCI Machine Learning "
        "Repository no. 341). Layout: RawData/acc_expNN_userNN.txt and gyro_… (x y z a line, 50 Hz), labels.txt "
        "(experiment, user, activity, first and last sample, from 1, inclusive). 30 people, a Galaxy S II at the "
        "waist. Acceleration in g is multiplied by 9.80665, the gyroscope is in rad/s already; signs are Android's. "
        "Walking → Walk; up and downstairs → Stairs; sitting, standing, lying → Still; postural transitions and what "
        "has no label are left out. Each labelled stretch becomes a recording. There are no times: experiments get a "
        "made-up clock."
    ),
    phone_model="Samsung Galaxy S II",
    position="waist",
    sessions=_sessions,
)
