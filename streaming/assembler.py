"""Which samples belong to which window, and when a window closes. No I/O and no clock: times are passed in.

Everything is counted in *event time*, per session, because phones are offline for hours and then upload: one late phone
neither holds the others back nor loses its data. A window ``[start, start + length)`` starts on a multiple of the hop and
exists if its first hop holds a sample, so that every sample is *fresh* in exactly one window.

A session's windows close, in order of their start, when

1. its newest sample is past the window's end by the allowed lateness, or
2. its last batch and all before it have come, or
3. it was silent for the idle time-out (on our clock).

What makes a restart harmless: :meth:`Assembler.needed_offset` is the lowest offset any open window still needs, margin for
interpolation included, and :class:`SessionMemory` (out of the table) says up to where a session's windows are published.
Reading again from that offset rebuilds exactly the open windows, and closes none a second time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streaming.resample import Times, Values, largest_gap_ns, resample
from streaming.sensors import SENSORS
from streaming.sequences import Sequences
from streaming.settings import WindowSettings
from streaming.wire import SensorBatch

_END_OF_TIME = int(np.iinfo(np.int64).max)
_MICROSECOND = timedelta(microseconds=1)
_CHUNK_BYTES = 1_024
"""What Python's objects around the samples of a batch take, about."""


class SessionKey(NamedTuple):
    """Names a session."""

    device_id: str
    session_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionMemory:
    """What the table knows of a session."""

    next_start_ns: int
    """Windows that start before this are published."""
    next_sequence: int
    """Sequence numbers below this had all come when the last window closed."""


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


@dataclass(slots=True)
class _Chunk:
    """What is kept of one batch."""

    offset: int
    scene: str | None
    sensors: dict[str, tuple[Times, Values]]
    first_ns: int
    last_ns: int
    ends_session: bool


@dataclass(slots=True)
class _Session:
    first: SensorBatch
    touched: datetime
    next_start_ns: int | None = None
    expected_sequence: int = 0
    sequences: Sequences = field(default_factory=Sequences)
    chunks: list[_Chunk] = field(default_factory=list)
    last_sequence: int | None = None
    newest_ns: int = -_END_OF_TIME

    @property
    def complete(self) -> bool:
        return self.last_sequence is not None and self.sequences.covers(self.expected_sequence, self.last_sequence)


class Assembler:
    """The open windows of one Kafka partition.

    Args:
        settings: how to cut.
        memory: what is published of each session of this partition.
    """

    def __init__(self, settings: WindowSettings, memory: Mapping[SessionKey, SessionMemory]) -> None:
        self._settings = settings
        self._memory = memory
        self._open: dict[SessionKey, _Session] = {}
        self._closed: dict[SessionKey, _Session] = {}
        self.counters: Counter[str] = Counter()

    @property
    def open_sessions(self) -> int:
        """Sessions with windows that have not closed."""
        return len(self._open)

    def needed_offset(self) -> int | None:
        """The lowest offset that an open window still needs; None if nothing is open."""
        return min((chunk.offset for session in self._open.values() for chunk in session.chunks), default=None)

    def held_bytes(self) -> int:
        """About how much memory the batches of open windows take. Looks at each of them."""
        return sum(
            _CHUNK_BYTES + sum(times.nbytes + values.nbytes for times, values in chunk.sensors.values())
            for session in self._open.values() for chunk in session.chunks
        )  # fmt: skip

    def open_since_ns(self) -> int | None:
        """Event time from which on windows are open, ns since the epoch; None if none is. Nothing before it is still to come out."""
        hop = self._settings.hop_ns
        starts = (
            session.next_start_ns
            if session.next_start_ns is not None
            else min(chunk.first_ns // hop * hop for chunk in session.chunks)
            for session in self._open.values() if any(chunk.sensors for chunk in session.chunks)
        )  # fmt: skip
        return min(starts, default=None)

    def add(self, batch: SensorBatch, offset: int, now: datetime) -> Iterator[ClosedWindows]:
        """Take a batch; yields the windows it closes."""
        key = SessionKey(batch.device_id, batch.session_id)
        session = self._open.get(key) or self._opened(key, batch, now)
        session.touched = now
        newest_sequence = session.sequences.next
        if not session.sequences.add(batch.sequence):
            self.counters["duplicate_batches"] += 1
            if not session.chunks:
                self._shut(key, session)
            return
        if batch.end_of_session:
            session.last_sequence = batch.sequence
        came_before = batch.sequence < session.expected_sequence
        chunk = self._chunk(session, batch, offset, count_late=not came_before)
        if chunk is not None:
            session.chunks.append(chunk)
        if came_before and (chunk is None or not chunk.sensors or chunk.last_ns < (session.next_start_ns or 0)):
            # All of it is in the table: read again after a restart, or a repeat of what was read before it.
            self.counters["duplicate_batches"] += 1
        elif batch.sequence < newest_sequence:
            self.counters["out_of_order_batches"] += 1
        if session.complete:
            yield from self._close(key, session, _END_OF_TIME)
            self._shut(key, session)
        else:
            lateness_ns = self._settings.lateness // _MICROSECOND * 1_000
            yield from self._close(key, session, session.newest_ns - lateness_ns - self._settings.length_ns + 1)
            if not session.chunks:  # nothing of a late batch was kept: its session is as closed as before
                self._shut(key, session)

    def close_idle(self, now: datetime) -> Iterator[ClosedWindows]:
        """Close every session that was silent for the idle time-out."""
        silent = [key for key, s in self._open.items() if now - s.touched >= self._settings.idle_timeout]
        for key in silent:
            session = self._open[key]
            yield from self._close(key, session, _END_OF_TIME)
            self._shut(key, session)
            self.counters["idle_sessions"] += 1

    def _chunk(self, session: _Session, batch: SensorBatch, offset: int, *, count_late: bool) -> _Chunk | None:
        """The part of a batch that open windows can use; None if there is none. The rest is late, or published already."""
        sensors: dict[str, tuple[Times, Values]] = {}
        for block in batch.blocks:
            times, values = block.times_ns(), block.values
            if block.sensor not in self._settings.sensors:
                self.counters["unused_samples"] += len(times)
                continue
            if session.next_start_ns is not None and len(times):
                if count_late:
                    self.counters["late_samples"] += int(np.searchsorted(times, session.next_start_ns))
                useful = int(np.searchsorted(times, session.next_start_ns - self._settings.max_gap_ns))
                times, values = times[useful:], values[useful:]
            if len(times):
                if block.sensor in sensors:
                    before = sensors[block.sensor]
                    times, values = np.concatenate([before[0], times]), np.concatenate([before[1], values])
                sensors[block.sensor] = (times, values)
        if not sensors:
            # An end marker is kept until the session closes: after a restart it must be read again.
            return (
                _Chunk(offset, None, {}, _END_OF_TIME, _END_OF_TIME, ends_session=True)
                if batch.end_of_session
                else None
            )
        first_ns = min(int(times.min()) for times, _ in sensors.values())
        last_ns = max(int(times.max()) for times, _ in sensors.values())
        session.newest_ns = max(session.newest_ns, last_ns)
        return _Chunk(offset, batch.scene, sensors, first_ns, last_ns, batch.end_of_session)

    def _close(self, key: SessionKey, session: _Session, limit_ns: int) -> Iterator[ClosedWindows]:
        """Close the windows that start before ``limit_ns``, a contiguous run of them at a time."""
        hop = self._settings.hop_ns
        if session.next_start_ns is not None and limit_ns <= session.next_start_ns:
            return
        starts = self._starts(session, limit_ns)
        if len(starts):
            signals = {name: _merged(session.chunks, name) for name in self._settings.sensors}
            signals = {name: signal for name, signal in signals.items() if len(signal[0])}
            # A run is broken where windows do not touch: hours offline must not become a grid of hours.
            for run in np.split(starts, np.flatnonzero(np.diff(starts) > self._settings.length_ns) + 1):
                yield self._cut(key, session, run, signals)
        if limit_ns == _END_OF_TIME:
            session.next_start_ns = int(starts[-1]) + hop if len(starts) else session.next_start_ns
            return
        # Also where no window was: whether a batch is late must not depend on what a restart has read again before it.
        session.next_start_ns = -(-limit_ns // hop) * hop
        keep_from = session.next_start_ns - self._settings.max_gap_ns
        session.chunks = [chunk for chunk in session.chunks if chunk.ends_session or chunk.last_ns >= keep_from]

    def _starts(self, session: _Session, limit_ns: int) -> Times:
        """Starts of the open windows before ``limit_ns``: the hops that hold a sample."""
        hop = self._settings.hop_ns
        if all(chunk.first_ns // hop * hop >= limit_ns for chunk in session.chunks):
            return np.empty(0, np.int64)
        times = [times for chunk in session.chunks for times, _ in chunk.sensors.values()]
        slots = np.unique(np.concatenate([each // hop * hop for each in times])) if times else np.empty(0, np.int64)
        return slots[(slots < limit_ns) & (slots >= (session.next_start_ns or 0))]

    def _cut(
        self, key: SessionKey, session: _Session, starts: Times, signals: Mapping[str, tuple[Times, Values]]
    ) -> ClosedWindows:
        s = self._settings
        period = 1_000_000_000 // s.rate_hz
        # Times of grid points are multiples of 1/rate counted from the run's first window, itself a multiple of the hop.
        points = int((starts[-1] - starts[0]) * s.rate_hz // 1_000_000_000) + s.grid_size
        grid = starts[0] + np.arange(points, dtype=np.int64) * 1_000_000_000 // s.rate_hz
        index = ((starts - starts[0]) * s.rate_hz // 1_000_000_000)[:, None] + np.arange(s.grid_size)
        ends = starts + s.length_ns
        cut: dict[str, Values] = {}
        coverage, gaps, fresh = {}, {}, {}
        samples = np.zeros(len(starts), np.int32)
        for name, (times, values) in signals.items():
            line = resample(times, values, grid=grid, period_ns=period, max_gap_ns=s.max_gap_ns)
            cut[name] = np.ascontiguousarray(line[:, index].transpose(1, 0, 2))
            coverage[name] = (~np.isnan(cut[name][:, 0])).mean(axis=1, dtype=np.float32)
            gaps[name] = np.array(
                [largest_gap_ns(times, int(a), int(b)) / 1e6 for a, b in zip(starts, ends, strict=True)], np.float32
            )
            begin = np.searchsorted(times, starts)
            fresh[name] = (np.searchsorted(times, starts + s.hop_ns) - begin).astype(np.int32)
            samples += (np.searchsorted(times, ends) - begin).astype(np.int32)
        best = np.max(list(coverage.values()), axis=0)
        self.counters["windows"] += len(starts)
        self.counters["sparse_windows"] += int((best < s.min_coverage).sum())
        first_offsets, last_offsets, scenes = self._origin(session.chunks, starts, ends)
        return ClosedWindows(
            key=key, subject_id=session.first.subject_id, phone_model=session.first.phone_model,
            position=session.first.position, cohort=session.first.cohort, starts_ns=starts, scenes=scenes, signals=cut,
            coverage=coverage, max_gap_ms=gaps, fresh=fresh, samples=samples, first_offsets=first_offsets,
            last_offsets=last_offsets, next_sequence=session.sequences.contiguous_from(session.expected_sequence),
        )  # fmt: skip

    def _origin(self, chunks: list[_Chunk], starts: Times, ends: Times) -> tuple[Times, Times, list[str | None]]:
        """Per window: the lowest and highest offset it came from, and the label that most of its samples carry."""
        margin = self._settings.max_gap_ns
        first, last = np.empty(len(starts), np.int64), np.empty(len(starts), np.int64)
        scenes: list[str | None] = []
        real = [chunk for chunk in chunks if chunk.sensors]
        spans = np.array([[chunk.first_ns, chunk.last_ns, chunk.offset] for chunk in real], np.int64)
        for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
            near = np.flatnonzero((spans[:, 1] >= start - margin) & (spans[:, 0] < end + margin))
            first[i], last[i] = spans[near, 2].min(), spans[near, 2].max()
            votes: Counter[str | None] = Counter()
            for j in near:
                votes[real[j].scene] += max(
                    0, min(int(spans[j, 1]), int(end) - 1) - max(int(spans[j, 0]), int(start)) + 1
                )
            scenes.append(max(votes, key=lambda scene: (votes[scene], str(scene))))
        return first, last, scenes

    def _opened(self, key: SessionKey, batch: SensorBatch, now: datetime) -> _Session:
        """A session's state: as it was when it closed, as the table tells it, or new."""
        session = self._closed.pop(key, None) or _Session(first=batch, touched=now)
        known = self._memory.get(key)
        if known is not None and session.next_start_ns is None:
            session.next_start_ns, session.expected_sequence = known.next_start_ns, known.next_sequence
        self._open[key] = session
        return session

    def _shut(self, key: SessionKey, session: _Session) -> None:
        """No window of it is open: keep what recognises a repeat or a late batch, and no samples."""
        session.chunks.clear()
        self._closed[key] = self._open.pop(key)


def _merged(chunks: list[_Chunk], sensor: str) -> tuple[Times, Values]:
    """All samples of a sensor in order of time; of equal times in order of offset, so that a replay merges alike."""
    parts = [chunk.sensors[sensor] for chunk in sorted(chunks, key=lambda c: c.offset) if sensor in chunk.sensors]
    if not parts:
        return np.empty(0, np.int64), np.empty((0, len(SENSORS[sensor].axes)), np.float32)
    times = np.concatenate([times for times, _ in parts])
    values = np.concatenate([values for _, values in parts])
    if np.any(times[1:] < times[:-1]):
        order = np.argsort(times, kind="stable")
        times, values = times[order], values[order]
    return times, values
