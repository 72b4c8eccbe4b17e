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

from streaming.chunks import Chunk, Piece
from streaming.resample import Stretches, Times, Values, largest_gaps_ns, resample_stretches
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


class Closing(NamedTuple):
    """A stretch of a session whose windows closed together, with all that was known of the session then."""

    key: SessionKey
    carrier: Carrier
    chunks: Sequence[Chunk]
    in_order: bool
    """Whether neither times nor offsets go back, from sample to sample and chunk to chunk."""
    even: bool
    """Whether the chunks are in order, and every sensor ticks evenly from the first to the last of them."""
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
    origins = [_origin(run.closing, run.starts, settings.length_ns, settings.max_gap_ns) for run in runs]
    firsts = np.array([offset for first, _, _ in origins for offset in first], np.int64)
    lasts = np.array([offset for _, last, _ in origins for offset in last], np.int64)
    tracks = [(name, each, each.signal.transpose(1, 0, 2)) for name, each in sensors.items()]
    groups = []
    for number, (run, (_, _, scenes)) in enumerate(zip(runs, origins, strict=True)):
        closing, rows = run.closing, run.rows
        present = [item for item in tracks if number not in item[1].absent]
        carrier = closing.carrier
        groups.append(
            ClosedWindows(
                key=closing.key, subject_id=carrier.subject_id, phone_model=carrier.phone_model, position=carrier.position,
                cohort=carrier.cohort, starts_ns=all_starts[rows], scenes=scenes,
                signals={name: windows[rows] for name, _, windows in present},
                coverage={name: each.coverage[rows] for name, each, _ in present},
                max_gap_ms={name: each.max_gap_ms[rows] for name, each, _ in present},
                fresh={name: each.fresh[rows] for name, each, _ in present}, samples=all_samples[rows],
                first_offsets=firsts[rows], last_offsets=lasts[rows], next_sequence=closing.next_sequence,
            )
        )  # fmt: skip
    best = np.max([each.coverage for each in sensors.values()], axis=0)
    return Cut(groups, at, int((best < settings.min_coverage).sum()))


def _starts(closing: Closing, hop: int) -> list[int]:
    """Starts of the windows: the hops that hold a sample."""
    low, high = closing.from_ns // hop, -(-closing.to_ns // hop)
    chunks = closing.chunks
    if closing.even:
        first, last = max(chunks[0].first_ns // hop, low), min(chunks[-1].last_ns // hop + 1, high)
        return list(range(first * hop, last * hop, hop))
    slots: set[int] = set()
    for chunk in chunks:
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
    found = _Track(
        signal=np.empty((len(SENSORS[name].axes), windows, s.grid_size), np.float32),
        coverage=np.ones(windows, np.float32),
        max_gap_ms=np.full(windows, 1_000 / s.rate_hz, np.float32),
        fresh=np.full(windows, s.hop_ns * s.rate_hz // 1_000_000_000, np.int32),
        samples=np.full(windows, s.grid_size, np.int32),
        absent=set(),
    )
    period = 1_000_000_000 // s.rate_hz if 1_000_000_000 % s.rate_hz == 0 and s.grid_size > 1 else None
    ticking: list[tuple[_Run, _Line]] = []
    others: list[tuple[_Run, list[Piece]]] = []
    for number, run in enumerate(runs):
        closing = run.closing
        pieces = [chunk.pieces[name] for chunk in closing.chunks if name in chunk.pieces]
        if not pieces:
            found.absent.add(number)
            found.signal[:, run.rows], found.samples[run.rows] = np.nan, 0
            found.coverage[run.rows] = found.fresh[run.rows] = 0
        elif closing.even and pieces[0].period_ns == period:
            inner, ends = _inner(run, pieces, s.length_ns)
            if inner is not None:
                ticking.append((inner, _line(inner, pieces, period, s)))
            others += [(end, pieces) for end in ends]
        else:
            if (
                not closing.in_order
            ):  # of equal times that of the lower offset comes first, so that a replay merges alike
                chunks = sorted(closing.chunks, key=lambda chunk: chunk.offset)
                pieces = [chunk.pieces[name] for chunk in chunks if name in chunk.pieces]
            others.append((run, pieces))
    if ticking:
        _cut_ticking(ticking, found, s)
    if others:
        _cut_others(others, found, s)
    return found


def _inner(run: _Run, pieces: Sequence[Piece], length: int) -> tuple[_Run | None, list[_Run]]:
    """The windows that lie between the first and the last sample of an even signal, and those at its ends."""
    first_ns, last_ns = pieces[0].first_ns, pieces[-1].last_ns - length
    starts = run.starts
    if starts[0] >= first_ns and starts[-1] <= last_ns:
        return run, []
    low = sum([start < first_ns for start in starts])
    high = max(low, len(starts) - sum([start > last_ns for start in starts]))
    parts = [_part(run, 0, low), _part(run, low, high), _part(run, high, len(starts))]
    return parts[1] if parts[1].starts else None, [part for part in (parts[0], parts[2]) if part.starts]


def _part(run: _Run, low: int, high: int) -> _Run:
    return _Run(run.closing, run.starts[low:high], slice(run.rows.start + low, run.rows.start + high))


def _cut_ticking(lines: Sequence[tuple[_Run, _Line]], found: _Track, s: WindowSettings) -> None:
    """Runs in which the sensor ticks at the grid's rate; all figures but the signal are right already."""
    between = _interpolated(
        np.concatenate([part for _, line in lines for part in line.parts]),
        np.repeat([line.fraction for _, line in lines], [line.length for _, line in lines]),
    )
    at = 0
    for run, line in lines:
        _spread(run, between, at, found, s)
        at += line.length


def _spread(run: _Run, values: Values, at: int, found: _Track, s: WindowSettings) -> None:
    """A run's values, from ``at`` on, into its windows, which share some of them."""
    signal, size, begin = found.signal, s.grid_size, run.starts[0]
    for row, start in enumerate(run.starts, run.rows.start):
        place = at + (start - begin) * s.rate_hz // 1_000_000_000
        signal[:, row] = values[:, place : place + size]


def _interpolated(samples: Values, fractions: NDArray[np.float64]) -> Values:
    """[n, axes] samples one step apart → [axes, n - 1] values, each at its fraction of the way to the next sample."""
    start = np.ascontiguousarray(samples.T, dtype=np.float64)
    step = start[:, 1:] - start[:, :-1]
    step *= fractions[:-1]
    step += start[:, :-1]
    return step.astype(np.float32)


class _Line(NamedTuple):
    """The samples around a run, where they tick at the grid's rate without a break."""

    parts: list[Values]
    """Of one array of samples."""
    length: int
    """Samples: one more than the run has grid points."""
    fraction: float
    """Where each grid point lies between its neighbours."""


def _line(run: _Run, pieces: Sequence[Piece], period: int, s: WindowSettings) -> _Line:
    """Of windows between the first and the last of the samples."""
    start = run.starts[0]
    length = (run.starts[-1] - start) // period + s.grid_size + 1
    at = 0
    while pieces[at].last_ns + period <= start:
        at += 1
    skipped, phase = divmod(start - pieces[at].first_ns, period)
    parts = [pieces[at].values[skipped : skipped + length]]
    missing = length - len(parts[0])
    while missing > 0:
        at += 1
        values = pieces[at].values
        parts.append(values if len(values) <= missing else values[:missing])
        missing -= len(values)
    return _Line(parts, length, phase / period)


def _cut_others(runs: Sequence[tuple[_Run, list[Piece]]], found: _Track, s: WindowSettings) -> None:
    """Runs in which the sensor's times are anything."""
    signals = [_signal(run, pieces, s) for run, pieces in runs]
    begins = np.array([run.starts[0] for run, _ in runs], np.int64)
    points = np.array([(run.starts[-1] - run.starts[0]) * s.rate_hz // 1_000_000_000 for run, _ in runs]) + s.grid_size
    these = Stretches(
        times=np.concatenate([times for times, _ in signals]), values=np.concatenate([values for _, values in signals]),
        lengths=np.array([len(times) for times, _ in signals]), origins=begins, points=points,
    )  # fmt: skip
    values = resample_stretches(these, rate_hz=s.rate_hz, max_gap_ns=s.max_gap_ns)
    for (run, _), at in zip(runs, (np.cumsum(points) - points).tolist(), strict=True):
        _spread(run, values, at, found, s)
    rows = np.concatenate([np.arange(run.rows.start, run.rows.stop) for run, _ in runs])
    starts = np.array([start for run, _ in runs for start in run.starts], np.int64)
    keys, shifts = these.keys(s.rate_hz)
    shift = np.repeat(shifts, [len(run.starts) for run, _ in runs])
    begin = np.searchsorted(keys, starts + shift)
    end = np.searchsorted(keys, starts + s.length_ns + shift)
    found.coverage[rows] = (~np.isnan(found.signal[0, rows])).mean(axis=1, dtype=np.float32)
    found.max_gap_ms[rows] = largest_gaps_ns(these.times, starts, starts + s.length_ns, begin, end) / 1e6
    found.fresh[rows] = np.searchsorted(keys, starts + s.hop_ns + shift) - begin
    found.samples[rows] = end - begin


def _signal(run: _Run, pieces: list[Piece], s: WindowSettings) -> tuple[Times, Values]:
    """The samples that matter for a run, in order of time; of equal times in the order given."""
    if run.closing.in_order:
        # With the one before and the one after: the neighbours of the first and the last grid point, however far away.
        low = max(0, sum([piece.last_ns < run.starts[0] for piece in pieces]) - 1)
        high = sum([piece.first_ns < run.starts[-1] + s.length_ns for piece in pieces]) + 1
        pieces = pieces[low:high]
        if len(pieces) == 1:
            return pieces[0].times_ns(), pieces[0].values
        return np.concatenate([piece.times_ns() for piece in pieces]), np.concatenate(
            [piece.values for piece in pieces]
        )
    times = np.concatenate([piece.times_ns() for piece in pieces])
    order = np.argsort(times, kind="stable")
    return times[order], np.concatenate([piece.values for piece in pieces])[order]


def _origin(
    closing: Closing, starts: Sequence[int], length: int, margin: int
) -> tuple[list[int], list[int], list[str | None]]:
    """Per window: the lowest and highest offset it came from, and the label that most of its samples carry."""
    first: list[int] = []
    last: list[int] = []
    scenes: list[str | None] = []
    for start in starts:
        end = start + length
        low, high = start - margin, end + margin
        near = [chunk for chunk in closing.chunks if chunk.last_ns >= low and chunk.first_ns < high and chunk.pieces]
        if closing.in_order:
            first.append(near[0].offset)
            last.append(near[-1].offset)
        else:
            first.append(min([chunk.offset for chunk in near]))
            last.append(max([chunk.offset for chunk in near]))
        scene = near[0].scene
        if any(chunk.scene != scene for chunk in near):
            votes: Counter[str | None] = Counter()
            for chunk in near:
                votes[chunk.scene] += max(0, min(chunk.last_ns, end - 1) - max(chunk.first_ns, start) + 1)
            scene = max(votes, key=lambda scene: (votes[scene], str(scene)))
        scenes.append(scene)
    return first, last, scenes
