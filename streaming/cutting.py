"""Stretches of sessions that closed → windows, those of many sessions at once. Pure.

The values are those of :func:`streaming.resample.resample` for each window, to the last bit. Where a sensor ticks at the grid's
own rate without a break around the windows, which is what most phones do most of the time, they come from one pass over the samples of
all sessions: every grid point lies between two neighbours one step apart, at a fraction that is the same for the whole
stretch. Everything else (jitter, other rates, gaps, the ends of a signal, batches out of order) goes the general way, a stretch
and sensor at a time.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streaming.resample import Times, Values, largest_gaps_ns, resample
from streaming.sensors import SENSORS
from streaming.settings import WindowSettings


class SessionKey(NamedTuple):
    """Names a session."""

    device_id: str
    session_id: str


class Carrier(NamedTuple):
    """Who carries the phone of a session, and how."""

    subject_id: str
    phone_model: str
    position: str
    cohort: str


@dataclass(slots=True)
class Piece:
    """The samples of one sensor in one batch."""

    values: Values
    first_ns: int
    last_ns: int
    period_ns: int
    """From one sample to the next; 0: as ``irregular`` says."""
    irregular: Times | None = None

    def times_ns(self) -> Times:
        """(n,) event times."""
        if self.irregular is not None:
            return self.irregular
        return np.arange(len(self.values), dtype=np.int64) * self.period_ns + self.first_ns


@dataclass(slots=True)
class Chunk:
    """What is kept of one batch."""

    offset: int
    scene: str | None
    pieces: dict[str, Piece]
    first_ns: int
    last_ns: int
    ends_session: bool


class Closing(NamedTuple):
    """A stretch of a session whose windows closed together, with all that was known of the session then."""

    key: SessionKey
    carrier: Carrier
    chunks: Sequence[Chunk]
    in_order: bool
    """Whether neither times nor offsets go back, from sample to sample and chunk to chunk."""
    from_ns: int
    """The first window starts here or later …"""
    to_ns: int
    """… and the last one before this."""
    next_sequence: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ClosedWindows:
    """Windows of one session that closed together, in order of start.

    k windows, m grid points each; a sensor that sent nothing is absent from the mappings.
    """

    key: SessionKey
    subject_id: str
    phone_model: str
    position: str
    cohort: str
    starts_ns: Times
    scenes: list[str | None]
    signals: Mapping[str, Values]
    """Sensor → float32 [k, axes, m]."""
    coverage: Mapping[str, NDArray[np.float32]]
    """Sensor → share of grid points with a signal, [k]."""
    max_gap_ms: Mapping[str, NDArray[np.float32]]
    fresh: Mapping[str, NDArray[np.int32]]
    """Sensor → raw samples in each window's first hop, [k]."""
    samples: NDArray[np.int32]
    """Raw samples of all sensors in each window, [k]."""
    first_offsets: Times
    last_offsets: Times
    next_sequence: int


class _Run(NamedTuple):
    """Windows of a closing that touch, so that one grid without hours of nothing holds them all."""

    closing: Closing
    starts: list[int]
    rows: slice
    """Which of all windows of this cut they are."""


@dataclass(slots=True)
class _Track:
    """What is known of one sensor, W windows."""

    signal: Values
    """[axes, W, m]"""
    coverage: NDArray[np.float32]
    max_gap_ms: NDArray[np.float32]
    fresh: NDArray[np.int32]
    samples: NDArray[np.int32]
    absent: set[int]
    """Numbers of the runs without it."""


class Cut(NamedTuple):
    """What :func:`cut` made."""

    groups: list[ClosedWindows]
    """In order of the closings and of time."""
    windows: int
    sparse: int
    """Windows of which no sensor covers the least share of the grid."""


def cut(closings: Sequence[Closing], settings: WindowSettings) -> Cut:
    """All windows of these stretches."""
    runs: list[_Run] = []
    at = 0
    for closing in closings:
        for starts in _touching(_starts(closing, settings.hop_ns), settings.length_ns):
            runs.append(_Run(closing, starts, slice(at, at + len(starts))))
            at += len(starts)
    if not runs:
        return Cut([], 0, 0)
    sensors = {name: _cut_sensor(name, runs, at, settings) for name in settings.sensors}
    all_starts = np.array([start for run in runs for start in run.starts], np.int64)
    all_samples: NDArray[np.int32] = np.array([each.samples for each in sensors.values()]).sum(axis=0, dtype=np.int32)
    groups = [_group(number, run, sensors, all_starts, all_samples, settings) for number, run in enumerate(runs)]
    best = np.max([each.coverage for each in sensors.values()], axis=0)
    return Cut(groups, at, int((best < settings.min_coverage).sum()))


def _group(
    number: int, run: _Run, sensors: Mapping[str, _Track], starts: Times, samples: NDArray[np.int32], s: WindowSettings
) -> ClosedWindows:
    closing, rows = run.closing, run.rows
    present = {name: each for name, each in sensors.items() if number not in each.absent}
    first_offsets, last_offsets, scenes = _origin(closing, run.starts, s.length_ns, s.max_gap_ns)
    return ClosedWindows(
        key=closing.key, subject_id=closing.carrier.subject_id, phone_model=closing.carrier.phone_model,
        position=closing.carrier.position, cohort=closing.carrier.cohort, starts_ns=starts[rows], scenes=scenes,
        signals={name: each.signal[:, rows].transpose(1, 0, 2) for name, each in present.items()},
        coverage={name: each.coverage[rows] for name, each in present.items()},
        max_gap_ms={name: each.max_gap_ms[rows] for name, each in present.items()},
        fresh={name: each.fresh[rows] for name, each in present.items()}, samples=samples[rows],
        first_offsets=np.array(first_offsets, np.int64), last_offsets=np.array(last_offsets, np.int64),
        next_sequence=closing.next_sequence,
    )  # fmt: skip


def _starts(closing: Closing, hop: int) -> list[int]:
    """Starts of the windows: the hops that hold a sample."""
    low, high = closing.from_ns // hop, -(-closing.to_ns // hop)
    slots: set[int] = set()
    for chunk in closing.chunks:
        if chunk.last_ns // hop < low or chunk.first_ns // hop >= high:
            continue
        for piece in chunk.pieces.values():
            if 0 < piece.period_ns <= hop:
                slots.update(range(max(piece.first_ns // hop, low), min(piece.last_ns // hop + 1, high)))
            else:
                slots.update(slot for slot in np.unique(piece.times_ns() // hop).tolist() if low <= slot < high)
    return [slot * hop for slot in sorted(slots)]


def _touching(starts: list[int], length: int) -> list[list[int]]:
    if not starts or starts[-1] - starts[0] <= length:
        return [starts] if starts else []
    breaks = [0, *(i for i in range(1, len(starts)) if starts[i] - starts[i - 1] > length), len(starts)]
    return [starts[a:b] for a, b in itertools.pairwise(breaks)]


def _cut_sensor(name: str, runs: Sequence[_Run], windows: int, s: WindowSettings) -> _Track:
    """One sensor of all runs."""
    hop_points = s.hop_ns * s.rate_hz // 1_000_000_000
    found = _Track(
        signal=np.empty((len(SENSORS[name].axes), windows, s.grid_size), np.float32),
        coverage=np.ones(windows, np.float32),
        max_gap_ms=np.full(windows, 1_000 / s.rate_hz, np.float32),
        fresh=np.full(windows, hop_points, np.int32),
        samples=np.full(windows, s.grid_size, np.int32),
        absent=set(),
    )
    parts: list[Values] = []
    lengths: list[int] = []
    fractions: list[float] = []
    at = 0
    places: list[tuple[int, int]] = []  # (window, where its first value is)
    for number, run in enumerate(runs):
        line = _line(run, name, s)
        if line is None:
            _cut_generally(number, run, name, found, s)
            continue
        line_parts, line_length, fraction = line
        parts += line_parts
        lengths.append(line_length)
        fractions.append(fraction)
        places += [
            (row, at + i * hop_points)
            for row, i in zip(range(run.rows.start, run.rows.stop), _hops(run, s.hop_ns), strict=True)
        ]
        at += line_length
    if parts:
        between = _interpolated(np.concatenate(parts), np.repeat(fractions, lengths))
        signal, size = found.signal, s.grid_size
        for row, place in places:
            signal[:, row] = between[:, place : place + size]
    return found


def _hops(run: _Run, hop: int) -> list[int]:
    return [(start - run.starts[0]) // hop for start in run.starts]


def _interpolated(samples: Values, fractions: NDArray[np.float64]) -> Values:
    """[n, axes] samples one step apart → [axes, n - 1] values, each at its fraction of the way to the next sample."""
    start = np.ascontiguousarray(samples.T, dtype=np.float64)
    step = start[:, 1:] - start[:, :-1]
    step *= fractions[:-1]
    step += start[:, :-1]
    return step.astype(np.float32)


def _line(run: _Run, name: str, s: WindowSettings) -> tuple[list[Values], int, float] | None:
    """The samples around a run if they tick at the grid's rate without a break, and where grid points lie between them.

    Returns:
        Parts of one array of samples, one more than the run has grid points; their number; the fraction.
        None if it is not so.
    """
    period = 1_000_000_000 // s.rate_hz
    if not run.closing.in_order or period * s.rate_hz != 1_000_000_000 or s.grid_size < 2:
        return None
    start = run.starts[0]
    length = missing = (run.starts[-1] - start) // period + s.grid_size + 1
    parts: list[Values] = []
    phase = expected_ns = 0
    for chunk in run.closing.chunks:
        piece = chunk.pieces.get(name)
        if piece is None or (not parts and piece.last_ns + period <= start):
            continue
        if piece.period_ns != period:
            return None
        values = piece.values
        if parts:
            if piece.first_ns != expected_ns:
                return None
        else:
            skipped, phase = divmod(start - piece.first_ns, period)
            if skipped < 0:
                return None
            values = values[skipped:]
        parts.append(values[:missing] if len(values) > missing else values)
        missing -= len(values)
        if missing <= 0:
            return parts, length, phase / period
        expected_ns = piece.last_ns + period
    return None


def _cut_generally(number: int, run: _Run, name: str, found: _Track, s: WindowSettings) -> None:
    """One sensor of one run, whatever its times are."""
    rows = run.rows
    starts = np.array(run.starts, np.int64)
    ends = starts + s.length_ns
    pieces = _near(run.closing, name, run.starts[0], int(ends[-1]))
    if not pieces:
        found.absent.add(number)
        found.signal[:, rows], found.samples[rows] = np.nan, 0
        found.coverage[rows] = found.fresh[rows] = 0
        return
    times, values = _merged(pieces, in_order=run.closing.in_order)
    # Times of grid points are multiples of 1/rate counted from the run's first window, itself a multiple of the hop.
    points = int((starts[-1] - starts[0]) * s.rate_hz // 1_000_000_000) + s.grid_size
    grid = starts[0] + np.arange(points, dtype=np.int64) * 1_000_000_000 // s.rate_hz
    line = resample(times, values, grid=grid, period_ns=1_000_000_000 // s.rate_hz, max_gap_ns=s.max_gap_ns)
    for row, start in zip(range(rows.start, rows.stop), run.starts, strict=True):
        place = (start - run.starts[0]) * s.rate_hz // 1_000_000_000
        found.signal[:, row] = line[:, place : place + s.grid_size]
    found.coverage[rows] = (~np.isnan(found.signal[0, rows])).mean(axis=1, dtype=np.float32)
    begin = np.searchsorted(times, starts)
    end = np.searchsorted(times, ends)
    found.max_gap_ms[rows] = largest_gaps_ns(times, starts, ends) / 1e6
    found.fresh[rows] = np.searchsorted(times, starts + s.hop_ns) - begin
    found.samples[rows] = end - begin


def _near(closing: Closing, name: str, start_ns: int, end_ns: int) -> list[Piece]:
    """A sensor's pieces in order of offset; if times are in order, only those that matter from start to end."""
    if not closing.in_order:
        chunks = sorted(closing.chunks, key=lambda chunk: chunk.offset)
        return [chunk.pieces[name] for chunk in chunks if name in chunk.pieces]
    pieces = [chunk.pieces[name] for chunk in closing.chunks if name in chunk.pieces]
    # With the one before and the one after: the neighbours of the first and the last grid point, however far away.
    low = max(0, sum(piece.last_ns < start_ns for piece in pieces) - 1)
    high = sum(piece.first_ns < end_ns for piece in pieces) + 1
    return pieces[low:high]


def _merged(pieces: Sequence[Piece], *, in_order: bool) -> tuple[Times, Values]:
    """Samples in order of time; of equal times in the order given, so that a replay merges alike."""
    if len(pieces) == 1:
        times, values = pieces[0].times_ns(), pieces[0].values
    else:
        times = np.concatenate([piece.times_ns() for piece in pieces])
        values = np.concatenate([piece.values for piece in pieces])
    if not in_order and np.any(times[1:] < times[:-1]):
        order = np.argsort(times, kind="stable")
        times, values = times[order], values[order]
    return times, values


def _origin(
    closing: Closing, starts: Sequence[int], length: int, margin: int
) -> tuple[list[int], list[int], list[str | None]]:
    """Per window: the lowest and highest offset it came from, and the label that most of its samples carry."""
    first, last, scenes = [], [], []
    for start in starts:
        end = start + length
        near = [
            chunk for chunk in closing.chunks
            if chunk.last_ns >= start - margin and chunk.first_ns < end + margin and chunk.pieces
        ]  # fmt: skip
        offsets = [chunk.offset for chunk in near]
        first.append(min(offsets))
        last.append(max(offsets))
        if len({chunk.scene for chunk in near}) == 1:
            scenes.append(near[0].scene)
            continue
        votes: Counter[str | None] = Counter()
        for chunk in near:
            votes[chunk.scene] += max(0, min(chunk.last_ns, end - 1) - max(chunk.first_ns, start) + 1)
        scenes.append(max(votes, key=lambda scene: (votes[scene], str(scene))))
    return first, last, scenes
