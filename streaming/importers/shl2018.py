"""The SHL recognition challenge of 2018: one person, a phone at the hips, 100 Hz.

Gjoreski et al., 2018, "The University of Sussex-Huawei Locomotion and Transportation Dataset"; Wang et al., 2018,
"Summary of the Sussex-Huawei Locomotion-Transportation Recognition Challenge".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from streaming.errors import ImporterError
from streaming.importers.dataset import EPOCH_NS, Findings, Format, ImportOptions, Segment, Session
from streaming.importers.frames import FrameFile
from streaming.importers.text import LARGEST, find_root
from streaming.recording import Samples
from streaming.sensors import SENSORS

_FRAME = 6000
_PERIOD_NS = 10**7
_SESSION_FRAMES = 60
"""Frames read together: an hour, which bounds the memory. A scene that goes on is cut there."""
_SCENES = MappingProxyType({1: "Still", 2: "Walk", 3: "Run", 4: "Bike", 5: "Car", 6: "Bus", 7: "Train", 8: "Subway"})
_FILES = MappingProxyType(
    {
        "accelerometer": "Acc",
        "gyroscope": "Gyr",
        "magnetometer": "Mag",
        "linear_acceleration": "LAcc",
        "gravity": "Gra",
        "pressure": "Pressure",
    }
)
_LABELS = "Label.txt"
_ORDER = "*_order.txt"


class _Source:
    """The files of one folder."""

    def __init__(self, root: Path, options: ImportOptions, findings: Findings) -> None:
        wanted = [name for name in _FILES if options.sensors is None or name in options.sensors]
        self.labels = self._open(root / _LABELS)
        self.order = _read_order(root, len(self.labels))
        self.sensors: dict[str, list[FrameFile]] = {}
        for name in wanted:
            paths = [root / file for file in _file_names(name)]
            if not any(path.exists() for path in paths):
                findings.refuse_file(paths[0].name, f"there is no such file; imported without {name}")
                continue
            self.sensors[name] = [self._open(path) for path in paths]
        for channels in self.sensors.values():
            for channel in channels:
                if len(channel) != len(self.labels):
                    msg = f"{channel.path}: {len(channel)} frames, but {_LABELS} has {len(self.labels)}"
                    raise ImporterError(msg)

    @staticmethod
    def _open(path: Path) -> FrameFile:
        if not path.exists():
            found = ", ".join(sorted(other.name for other in path.parent.glob("*.txt")))
            msg = f"{path.parent}: looked for {path.name}, found {found}"
            raise ImporterError(msg)
        return FrameFile(path)


def _file_names(sensor: str) -> list[str]:
    stem, axes = _FILES[sensor], SENSORS[sensor].axes
    return [f"{stem}.txt"] if len(axes) == 1 else [f"{stem}_{axis}.txt" for axis in axes]


def _read_order(root: Path, frames: int) -> NDArray[np.int64]:
    """The place in time, from 1, of each line (frames,)."""
    paths = sorted(root.glob(_ORDER))
    if len(paths) != 1:
        found = ", ".join(path.name for path in sorted(root.glob("*.txt")))
        msg = f"{root}: looked for one {_ORDER} (train_order.txt), found {found}"
        raise ImporterError(msg)
    fields = paths[0].read_text(encoding="ascii", errors="replace").replace(",", " ").split()
    try:
        order = np.array(fields, dtype=np.float64)
    except ValueError as error:
        msg = f"{paths[0]}: not a list of numbers: {error}"
        raise ImporterError(msg) from error
    whole = (order >= 1) & (order <= LARGEST) & (order % 1 == 0)
    if len(order) != frames or len(np.unique(order)) != frames or not whole.all():
        msg = f"{paths[0]}: it must have {frames} different whole numbers from 1 on, one for each line of {_LABELS}"
        raise ImporterError(msg)
    return order.astype(np.int64)


def _sessions(source: Path, options: ImportOptions, findings: Findings) -> list[Session]:
    root = find_root(source, ("Acc_x.txt", _LABELS), "SHL-2018's train folder")
    files = _Source(root, options, findings)
    by_time = np.argsort(files.order)
    sessions = []
    for block, rows in enumerate(np.array_split(by_time, options.blocks), start=1):
        subject = "user1" if options.blocks == 1 else f"user1-block{block:02d}"
        for start, stop in _hours(files.order[rows]):
            place = int(files.order[rows[start]])
            session = Session(
                subject=subject,
                file=_LABELS,
                start_ns=EPOCH_NS + (place - 1) * _FRAME * _PERIOD_NS,
                read=partial(_read, files, rows[start:stop], f"frame{place:05d}"),
            )
            sessions.append(session)
    return sessions


def _hours(places: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Start and stop of the runs of neighbouring places, none longer than :data:`_SESSION_FRAMES`."""
    gaps = (np.flatnonzero(np.diff(places) != 1) + 1).tolist()
    for start, stop in pairwise([0, *gaps, len(places)]):
        for first in range(start, stop, _SESSION_FRAMES):
            yield first, min(first + _SESSION_FRAMES, stop)


def _read(files: _Source, rows: NDArray[np.int64], name: str, findings: Findings) -> Iterable[Segment]:
    labels = _labels(files.labels, rows, findings)
    signals = {sensor: _signal(channels, rows, findings) for sensor, channels in files.sensors.items()}
    usable: dict[str, NDArray[np.bool_]] = {
        sensor: np.logical_and.reduce(np.isfinite(values), axis=1) for sensor, values in signals.items()
    }
    time_ns = np.arange(len(labels), dtype=np.int64) * _PERIOD_NS
    changes = (np.flatnonzero(np.diff(labels)) + 1).tolist()
    for number, (start, stop) in enumerate(pairwise([0, *changes, len(labels)]), start=1):
        scene = _SCENES.get(int(labels[start]))
        if scene is None:
            findings.note("samples without a label left out", stop - start)
            continue
        samples = {}
        for sensor, values in signals.items():
            kept = usable[sensor][start:stop]
            samples[sensor] = Samples(time_ns[start:stop][kept], values[start:stop][kept])
        yield Segment(name=f"{name}-{number}", scene=scene, samples=samples)


def _labels(file: FrameFile, rows: NDArray[np.int64], findings: Findings) -> NDArray[np.int64]:
    """The labels of these frames, one after the other; 0 where there is none."""
    labels = np.zeros((len(rows), _FRAME), dtype=np.int64)
    for index, row in enumerate(rows.tolist()):
        frame = file.frame(row, _FRAME)
        if isinstance(frame, str):
            findings.refuse_lines(_LABELS, np.array([row + 1]), frame)
            continue
        known = np.isin(frame, [0, *_SCENES])
        if not known.all():
            reason = f"{np.sum(~known)} labels are none of 0 to 8, such as {frame[np.argmin(known)]:g}"
            findings.refuse_lines(_LABELS, np.array([row + 1]), reason)
        labels[index] = np.where(known, frame, 0)
    return labels.ravel()


def _signal(channels: list[FrameFile], rows: NDArray[np.int64], findings: Findings) -> NDArray[np.float32]:
    """The samples of these frames, one after the other (n, axes); NaN where an axis could not be read."""
    values = np.full((len(rows), _FRAME, len(channels)), np.nan, dtype=np.float32)
    for axis, channel in enumerate(channels):
        for index, row in enumerate(rows.tolist()):
            frame = channel.frame(row, _FRAME)
            if isinstance(frame, str):
                findings.refuse_lines(channel.path.name, np.array([row + 1]), frame)
                continue
            frame[~(np.abs(frame) <= LARGEST)] = np.nan
            if wrong := int(np.isnan(frame).sum()):
                findings.refuse_lines(channel.path.name, np.array([row + 1]), f"{wrong} values are no finite number")
            values[index, :, axis] = frame
    return values.reshape(-1, len(channels))


SHL2018 = Format(
    name="shl2018",
    summary=(
        "SHL recognition challenge 2018, shl-dataset.org (registration): unpack the train files into one folder. "
        "Layout: a file a channel (Acc_x.txt … Gyr_, Mag_, LAcc_, Gra_, Pressure.txt), a frame of 6000 values a line "
        "(1 minute at 100 Hz), Label.txt with a label for every sample (1 Still, 2 Walk, 3 Run, 4 Bike, 5 Car, 6 Bus, "
        "7 Train, 8 Subway), train_order.txt with the place in time of each line. m/s², rad/s, µT, hPa and Android's "
        "signs, so nothing is converted; the orientation (Ori_) is not used. One person (a HUAWEI Mate 9 at the hips) "
        "recorded all of it: contiguous blocks of time stand in for subjects, which keeps neighbouring minutes on one "
        "side of a split but shows nothing about other people. Frames with neighbouring places are taken to follow "
        "each other; a recording is a stretch of one scene within an hour. Place 1 starts at a made-up time."
    ),
    phone_model="HUAWEI Mate 9",
    position="hips",
    sessions=_sessions,
)
