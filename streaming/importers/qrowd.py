"""QROWD's transport modes (the QROWD project, 2018): three people, acceleration alone, about 15 Hz, no times."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from streaming.importers.dataset import (
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

_MODES_HZ = 15.0
_RUN_HZ = 24.0
_SCENES = MappingProxyType(
    {"still": "Still", "walk": "Walk", "run": "Run", "bike": "Bike", "car": "Car", "bus": "Bus", "train": "Train"}
)
_MODES = ("six_modes*/*.csv", "datasets/*.csv")
_RUNS = "*/run/user*.txt"
_RUN_FILE = re.compile(r"user(?P<user>\w{1,16})\.txt")
_USER = r"^\w{1,16}$"
_AXES = ("x", "y", "z")


class _Stretch(NamedTuple):
    """Neighbouring lines of one user in one file."""

    file: str
    mode: str
    user: str
    lines: NDArray[np.int64]
    values: NDArray[np.float64]


def _sessions(source: Path, _options: ImportOptions, findings: Findings) -> list[Session]:
    root = find_root(source, (*_MODES, _RUNS), "QROWD")
    users: dict[str, list[_Stretch]] = {}
    for path in sorted(path for pattern in _MODES for path in root.glob(pattern)):
        for stretch in _stretches(path, root, path.stem, None, findings):
            users.setdefault(stretch.user, []).append(stretch)
    for path in sorted(root.glob(_RUNS)):
        match = _RUN_FILE.fullmatch(path.name)
        for stretch in _stretches(path, root, "run", match["user"], findings) if match else ():
            users.setdefault(stretch.user, []).append(stretch)
    sessions = []
    for user, found in sorted(users.items()):
        for number, (start_ns, stretch) in enumerate(zip(made_up_starts(len(found)), found, strict=True), start=1):
            read = partial(_read, stretch, f"{number:02d}-{stretch.mode}")
            sessions.append(Session(subject=user, file=stretch.file, start_ns=start_ns, read=read))
    return sessions


def _stretches(path: Path, root: Path, mode: str, user: str | None, findings: Findings) -> Iterator[_Stretch]:
    """Cuts a file where the user changes; ``user`` is whose file it is if it has no such column."""
    table = read_table(path, root, columns=None, separator=",", findings=findings)
    if mode not in _SCENES:
        findings.refuse_file(table.file, f"unknown mode '{mode}'; known: {', '.join(_SCENES)}")
        return
    require_columns(path, table, (*_AXES, "class", *(("user",) if user is None else ())))
    who = table.columns["user"] if user is None else pl.Series([user]).new_from_index(0, len(table.lines))
    values = table.numbers(_AXES)
    finite = table.complete(values, findings)
    fits = ((table.columns["class"] == mode) & who.str.contains(_USER)).fill_null(value=False).to_numpy()
    findings.refuse_lines(table.file, table.lines[finite & ~fits], f"its class is not '{mode}', or it has no user")
    lines, values, who = table.lines[finite & fits], values[finite & fits], who.filter(finite & fits)
    starts = np.flatnonzero(np.diff(who.rle_id().to_numpy().astype(np.int64), prepend=-1)).tolist()
    for start, stop in pairwise([*starts, len(lines)]):
        part = slice(start, stop)
        yield _Stretch(table.file, mode, who[start], lines[part], values[part])


def _read(stretch: _Stretch, name: str, findings: Findings) -> Iterable[Segment]:
    rate_hz = _RUN_HZ if stretch.mode == "run" else _MODES_HZ
    rows = stretch.lines - stretch.lines[0]  # a refused line leaves a gap: the others keep their times
    kept = within_slot(stretch.file, rows, stretch.lines, rate_hz, findings)
    samples = Samples(regular_times(rows[kept], rate_hz), stretch.values[kept].astype(np.float32))
    yield Segment(name=name, scene=_SCENES[stretch.mode], samples={"accelerometer": samples})


QROWD = Format(
    name="qrowd",
    summary=(
        "QROWD's transport modes, github.com/QROWD/TR, folder datasets. Layout: six_modes_2018-05-07/<mode>.csv (or "
        "datasets/<mode>.csv as in the repository on that day; user, x, y, z, class), about 15 Hz, and "
        "cs199_first_commit/run/user<n>.txt (datasets/run in its first commits; x, y, z, class), about 24 Hz; one of the "
        "folders is enough. Acceleration in m/s², left as it is: the three users' phones are not known. User n is "
        "taken to be the same person in both folders, which keeps one person on one side of a split even if that is "
        "wrong. A session is a stretch of lines of one user in one file. There are no times: the rate is nominal and "
        "sessions get a made-up clock. Bus and train were logged differently from the rest, so scores within this "
        "data set flatter."
    ),
    phone_model="unknown",
    position="unknown",
    sessions=_sessions,
)
