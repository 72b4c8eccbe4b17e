"""What every importer deals in: options, sessions, segments, what was refused, and the report.

A data set is a list of *sessions*, what one person logged without a break. Reading a session gives its *segments*: the
stretches with one scene, each of which becomes one recording. What cannot be used is refused with file and line; what
is left out or changed on purpose is noted and counted. Nothing goes missing in silence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streaming.recording import Samples

STANDARD_GRAVITY = 9.80665
"""m/s² in one g, as phones and their interfaces define it."""

EPOCH_NS = 1_514_793_600 * 10**9
"""2018-01-01 08:00 UTC: where the made-up clock of data sets without true times starts, ns since the epoch."""

SLOT_NS = 2 * 3600 * 10**9
"""Time set aside for each session by the made-up clock; no published session comes near it."""

_DAY_NS = 24 * 3600 * 10**9
_DAYS = 5
_SLOTS_A_DAY = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportOptions:
    """What to take from a data set."""

    sensors: tuple[str, ...] | None = None
    """Sensors to keep, by their names in :data:`streaming.sensors.SENSORS`; None (default): all that there are."""
    every_subject: int = 1
    """Take every k-th subject; 1 (default): all. The quick way to a smaller data set with all scenes."""
    limit: int | None = None
    """Sessions a subject at most, taken evenly from those there are; None (default): all."""
    blocks: int = 10
    """``shl2018`` only: how many contiguous blocks of the recorded order stand in for subjects (default 10, about 27
    hours each), because one person recorded it all and splits are made by subject; 1 keeps the one true subject."""


class Refusal(NamedTuple):
    """Input that could not be used."""

    file: str
    """Path, relative to the folder that was imported."""
    row: int
    """Line of the file, from 1; 0 if it is about the whole file."""
    reason: str
    """What is wrong with it."""
    rows: int = 1
    """How many lines in a row this is about; 0 if the whole file."""


@dataclass(slots=True)
class Findings:
    """Collects what a reader cannot use, leaves out or changes."""

    refused: list[Refusal] = field(default_factory=list)
    """In the order found."""
    notes: Counter[str] = field(default_factory=Counter)
    """What was left out or changed on purpose → how many rows, or times."""

    def refuse_file(self, file: str, reason: str) -> None:
        """Refuse a whole file."""
        self.refused.append(Refusal(file, 0, reason, 0))

    def refuse_lines(self, file: str, lines: NDArray[np.int64], reason: str) -> None:
        """Refuse these lines (n,), sorted and counted from 1; neighbours are put into one refusal."""
        if len(lines):
            runs = np.split(lines, np.flatnonzero(np.diff(lines) != 1) + 1)
            self.refused.extend(Refusal(file, int(run[0]), reason, len(run)) for run in runs)

    def note(self, what: str, count: int = 1) -> None:
        """Count something that was left out or changed."""
        if count:
            self.notes[what] += count


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Segment:
    """A stretch of a session with one scene."""

    name: str
    """Becomes the recording's session_id; unique among the segments of a subject."""
    scene: str
    """Title-cased: Still, Walk, …"""
    samples: Mapping[str, Samples]
    """Sensor → samples, times in ns since the start of the session."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Session:
    """What one person logged without a break, not read yet."""

    subject: str
    """Who, within the data set."""
    file: str
    """Its file, or the first of them, relative to the data set's folder; for messages."""
    start_ns: int
    """When it started, ns since the epoch; whole µs."""
    read: Callable[[Findings], Iterable[Segment]]
    """Reads the files; raises ImporterError if they are nothing of what is expected."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """A published data set that can be imported."""

    name: str
    """Name on the command line; starts the subject ids."""
    summary: str
    """One paragraph for help texts: where to get it, layout, units and signs, decisions."""
    phone_model: str
    """What its phones are; ``unknown`` where nobody says."""
    position: str
    """Where they were carried; ``unknown`` where nobody says."""
    sessions: Callable[[Path, ImportOptions, Findings], list[Session]]
    """Finds the sessions below a folder; raises ImporterError if the layout is another."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportReport:
    """What came of an import."""

    written: int
    """Recordings written."""
    samples: int
    """Samples in them, of all sensors together."""
    sessions: int
    """Sessions read."""
    subjects: tuple[str, ...]
    """The subject ids that have a recording, sorted."""
    minutes: Mapping[str, float]
    """Scene → minutes from first to last sample, summed over its recordings."""
    refused: tuple[Refusal, ...]
    """What could not be used."""
    notes: Mapping[str, int]
    """What was left out or changed on purpose → how many rows, or times."""


def made_up_starts(count: int) -> list[int]:
    """Start times for the sessions of one subject whose data set has no clock: one after the other, over a few days.

    From :data:`EPOCH_NS` on, over five consecutive days (more if there are more than eight sessions a day), each
    session in a slot of its own of :data:`SLOT_NS`. The same count gives the same times.

    Returns:
        (count,) ns since the epoch, increasing.
    """
    days = max(_DAYS, -(-count // _SLOTS_A_DAY))
    starts = []
    for index in range(count):
        day = index * days // count
        first_of_day = -(-day * count // days)
        starts.append(EPOCH_NS + day * _DAY_NS + (index - first_of_day) * SLOT_NS)
    return starts


def regular_times(rows: NDArray[np.int64], rate_hz: float) -> NDArray[np.int64]:
    """Times of samples that were taken at a constant rate.

    Args:
        rows: (n,) number of each sample, from 0.
        rate_hz: samples a second.

    Returns:
        (n,) ns since sample 0, whole µs.
    """
    time_us: NDArray[np.int64] = np.rint(rows * (1e6 / rate_hz)).astype(np.int64)
    return time_us * 1000


def within_slot(
    file: str, rows: NDArray[np.int64], lines: NDArray[np.int64], rate_hz: float, findings: Findings
) -> NDArray[np.bool_]:
    """Refuses what would run into the next session's slot of the made-up clock.

    Args:
        file: for the refusal.
        rows: (n,) number of each sample in its session, from 0.
        lines: (n,) its line in the file, from 1.
        rate_hz: samples a second.
        findings: takes the refusal.

    Returns:
        (n,) which rows are inside.
    """
    inside = regular_times(rows, rate_hz) < SLOT_NS
    findings.refuse_lines(file, lines[~inside], f"the session is longer than {SLOT_NS // 3600 // 10**9} h")
    return inside
