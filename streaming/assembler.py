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

That a window closes is a matter of a few integers; cutting it out of the samples is not. So windows of all sessions that closed may wait
to be cut together (:mod:`streaming.cutting`), each out of what was known when it closed: waiting changes no bit of them.
"""

from __future__ import annotations

import heapq
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise

import numpy as np

from streaming.cutting import Carrier, Chunk, ClosedWindows, Closing, Piece, SessionKey, cut
from streaming.sequences import Sequences
from streaming.settings import WindowSettings
from streaming.wire import SensorBatch, SensorBlock

__all__ = ["Assembler", "ClosedWindows", "SessionKey", "SessionMemory"]

_END_OF_TIME = int(np.iinfo(np.int64).max)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionMemory:
    """What the table knows of a session."""

    next_start_ns: int
    """Windows that start before this are published."""
    next_sequence: int
    """Sequence numbers below this had all come when the last window closed."""


@dataclass(slots=True, eq=False)
class _Session:
    carrier: Carrier
    touched: datetime
    next_start_ns: int | None = None
    expected_sequence: int = 0
    sequences: Sequences = field(default_factory=Sequences)
    chunks: list[Chunk] = field(default_factory=list)
    in_order: bool = True
    """See :class:`streaming.cutting.Closing`; of the chunks, among themselves and against ``newest_ns``."""
    even: bool = True
    """See there too."""
    last_sequence: int | None = None
    newest_ns: int = -_END_OF_TIME
    queued: bool = False
    """Whether the queue of needed offsets has it."""

    @property
    def complete(self) -> bool:
        return self.last_sequence is not None and self.sequences.covers(self.expected_sequence, self.last_sequence)

    @property
    def lowest_offset(self) -> int | None:
        """The lowest offset of its chunks."""
        if self.in_order:
            return self.chunks[0].offset if self.chunks else None
        return min((chunk.offset for chunk in self.chunks), default=None)


class Assembler:
    """The open windows of one Kafka partition.

    Args:
        settings: how to cut.
        memory: what is published of each session of this partition.
        together: how many closed windows to wait for before they are cut (see :meth:`flush`); 1: none waits.
    """

    def __init__(
        self, settings: WindowSettings, memory: Mapping[SessionKey, SessionMemory], *, together: int = 1
    ) -> None:
        self._settings = settings
        self._together = together
        self._sensors = frozenset(settings.sensors)
        self._hop_ns = settings.hop_ns
        self._max_gap_ns = settings.max_gap_ns
        self._behind_ns = settings.lateness // _MICROSECOND * 1_000 + settings.length_ns - 1
        self._memory = memory
        self._open: OrderedDict[SessionKey, _Session] = OrderedDict()
        """Those that were silent longest come first."""
        self._closed: dict[SessionKey, _Session] = {}
        self._needed: list[tuple[int, int, _Session]] = []
        """A heap of (offset, tie-break, session): of each open session an offset that it needed at some time, and no lower one since."""
        self._waiting: list[Closing] = []
        self._waiting_windows = 0
        self._queued = 0
        self.counters: Counter[str] = Counter()

    @property
    def open_sessions(self) -> int:
        """Sessions with windows that have not closed."""
        return len(self._open)

    def needed_offset(self) -> int | None:
        """The lowest offset that an open window, or one that waits to be cut, still needs; None if there is none."""
        waiting = [chunk.offset for closing in self._waiting for chunk in closing.chunks]
        while self._needed:
            offset, _, session = self._needed[0]
            lowest = session.lowest_offset
            if lowest == offset:
                return min([offset, *waiting])
            if lowest is None:
                heapq.heappop(self._needed)
                session.queued = False
            else:
                heapq.heapreplace(self._needed, (lowest, self._tie(), session))
        return min(waiting, default=None)

    def add(self, batch: SensorBatch, offset: int, now: datetime) -> list[ClosedWindows]:
        """Take a batch; returns windows that were cut."""
        key = SessionKey(batch.device_id, batch.session_id)
        session = self._open.get(key)
        if session is None:
            session = self._opened(key, batch, now)
        else:
            self._open.move_to_end(key)
            session.touched = now
        newest_sequence = session.sequences.next
        if not session.sequences.add(batch.sequence):
            self.counters["duplicate_batches"] += 1
            if not session.chunks:
                self._shut(key, session)
            return []
        if batch.end_of_session:
            session.last_sequence = batch.sequence
        came_before = batch.sequence < session.expected_sequence
        chunk = self._chunk(session, batch, offset, count_late=not came_before)
        if chunk is not None:
            self._keep(session, chunk)
        if came_before and (chunk is None or not chunk.pieces or chunk.last_ns < (session.next_start_ns or 0)):
            # All of it is in the table: read again after a restart, or a repeat of what was read before it.
            self.counters["duplicate_batches"] += 1
        elif batch.sequence < newest_sequence:
            self.counters["out_of_order_batches"] += 1
        if session.complete:
            self._close(key, session, _END_OF_TIME)
            self._shut(key, session)
        else:
            self._close(key, session, session.newest_ns - self._behind_ns)
            if not session.chunks:  # nothing of a late batch was kept: its session is as closed as before
                self._shut(key, session)
        return self.flush() if self._waiting_windows >= self._together else []

    def close_idle(self, now: datetime) -> list[ClosedWindows]:
        """Close every session that was silent for the idle time-out."""
        while self._open:
            key, session = next(iter(self._open.items()))
            if now - session.touched < self._settings.idle_timeout:
                break
            self._close(key, session, _END_OF_TIME)
            self._shut(key, session)
            self.counters["idle_sessions"] += 1
        return self.flush() if self._waiting_windows >= self._together else []

    def flush(self) -> list[ClosedWindows]:
        """Cut the windows that wait."""
        if not self._waiting:
            return []
        groups, windows, sparse = cut(self._waiting, self._settings)
        self._waiting.clear()
        self._waiting_windows = 0
        self.counters["windows"] += windows
        self.counters["sparse_windows"] += sparse
        return groups

    def _chunk(self, session: _Session, batch: SensorBatch, offset: int, *, count_late: bool) -> Chunk | None:
        """The part of a batch that open windows can use; None if there is none. The rest is late, or published already."""
        pieces: dict[str, Piece] = {}
        for block in batch.blocks:
            if block.sensor not in self._sensors:
                self.counters["unused_samples"] += len(block.values)
                continue
            piece = _piece(block)
            if piece is not None and session.next_start_ns is not None:
                piece = self._useful(piece, session.next_start_ns, count_late=count_late)
            if piece is not None:
                before = pieces.get(block.sensor)
                pieces[block.sensor] = piece if before is None else _joined(before, piece)
        if not pieces:
            # An end marker is kept until the session closes: after a restart it must be read again.
            return (
                Chunk(offset, None, {}, _END_OF_TIME, _END_OF_TIME, ends_session=True) if batch.end_of_session else None
            )
        first_ns = min([piece.first_ns for piece in pieces.values()])
        last_ns = max([piece.last_ns for piece in pieces.values()])
        return Chunk(offset, batch.scene, pieces, first_ns, last_ns, batch.end_of_session, ticks=self._ticks(pieces))

    def _ticks(self, pieces: dict[str, Piece]) -> bool:
        """See :class:`streaming.cutting.Chunk`; sensors that overlap, so that every hop from the first to the last has a sample."""
        first_ns, last_ns = -1, _END_OF_TIME
        for piece in pieces.values():
            if not 0 < piece.period_ns <= self._hop_ns:
                return False
            first_ns = max(first_ns, piece.first_ns)
            last_ns = min(last_ns, piece.last_ns)
        return first_ns <= last_ns

    def _useful(self, piece: Piece, next_start_ns: int, *, count_late: bool) -> Piece | None:
        """Without what no open window needs."""
        if piece.first_ns >= next_start_ns:
            return piece
        if count_late:
            self.counters["late_samples"] += _before(piece, next_start_ns)
        skip = _before(piece, next_start_ns - self._max_gap_ns)
        if not skip:
            return piece
        if skip == len(piece.values):
            return None
        times = None if piece.irregular is None else piece.irregular[skip:]
        first_ns = piece.first_ns + skip * piece.period_ns if times is None else int(times[0])
        return Piece(piece.values[skip:], first_ns, piece.last_ns, piece.period_ns, times)

    def _keep(self, session: _Session, chunk: Chunk) -> None:
        before = session.chunks[-1] if session.chunks else None
        if before is not None:
            if chunk.offset < before.offset or before.ends_session or chunk.first_ns < session.newest_ns:
                session.in_order = False
            chunk.continues = chunk.ticks and before.ticks and self._continues(before, chunk)
        if not chunk.ticks and not _sorted(chunk):
            session.in_order = False
        session.even = session.in_order and chunk.ticks and (before is None or (session.even and chunk.continues))
        session.chunks.append(chunk)
        if chunk.pieces:
            session.newest_ns = max(session.newest_ns, chunk.last_ns)
        if not session.queued:
            session.queued = True
            heapq.heappush(self._needed, (chunk.offset, self._tie(), session))

    @staticmethod
    def _continues(before: Chunk, chunk: Chunk) -> bool:
        if before.pieces.keys() != chunk.pieces.keys():
            return False
        for name, piece in chunk.pieces.items():
            last = before.pieces[name]
            if piece.period_ns != last.period_ns or piece.first_ns != last.last_ns + last.period_ns:
                return False
        return True

    def _tie(self) -> int:
        self._queued += 1
        return self._queued

    def _close(self, key: SessionKey, session: _Session, limit_ns: int) -> None:
        """Close the windows that start before ``limit_ns``."""
        hop = self._hop_ns
        from_ns = session.next_start_ns or 0
        if session.next_start_ns is not None and limit_ns <= from_ns:
            return
        found = self._closing_span(session, from_ns, limit_ns)
        if found is not None:
            first_ns, last_ns = found
            self._waiting.append(
                Closing(
                    key, session.carrier, tuple(session.chunks), session.in_order, session.even, from_ns, limit_ns,
                    session.sequences.contiguous_from(session.expected_sequence),
                )
            )  # fmt: skip
            # At most so many; how many have a sample shows when they are cut.
            self._waiting_windows += min(last_ns, limit_ns - 1) // hop - max(from_ns, first_ns) // hop + 1
            if limit_ns == _END_OF_TIME:
                session.next_start_ns = last_ns // hop * hop + hop
        if limit_ns == _END_OF_TIME:
            return
        # Also where no window was: whether a batch is late must not depend on what a restart has read again before it.
        session.next_start_ns = -(-limit_ns // hop) * hop
        keep_from = session.next_start_ns - self._max_gap_ns
        if not session.in_order:
            session.chunks = [chunk for chunk in session.chunks if chunk.ends_session or chunk.last_ns >= keep_from]
            session.in_order = _in_order(session.chunks, session.newest_ns)
        else:
            done = 0
            for chunk in session.chunks:
                if chunk.ends_session or chunk.last_ns >= keep_from:
                    break
                done += 1
            if not done:
                return
            del session.chunks[:done]
        session.even = session.in_order and (session.even or _even(session.chunks))

    def _closing_span(self, session: _Session, from_ns: int, limit_ns: int) -> tuple[int, int] | None:
        """First and last time of the chunks that may have a window in a stretch; None if there is no such chunk."""
        hop = self._hop_ns
        if session.even:
            chunks = session.chunks
            if not chunks or chunks[0].first_ns // hop * hop >= limit_ns or chunks[-1].last_ns < from_ns:
                return None
            return chunks[0].first_ns, chunks[-1].last_ns
        closed = [
            chunk
            for chunk in session.chunks
            if chunk.pieces and chunk.first_ns // hop * hop < limit_ns and chunk.last_ns >= from_ns
        ]
        if not closed:
            return None
        return min([chunk.first_ns for chunk in closed]), max([chunk.last_ns for chunk in closed])

    def _opened(self, key: SessionKey, batch: SensorBatch, now: datetime) -> _Session:
        """A session's state: as it was when it closed, as the table tells it, or new."""
        session = self._closed.pop(key, None)
        if session is None:
            carrier = Carrier(batch.subject_id, batch.phone_model, batch.position, batch.cohort)
            session = _Session(carrier=carrier, touched=now)
        session.touched = now
        known = self._memory.get(key)
        if known is not None and session.next_start_ns is None:
            session.next_start_ns, session.expected_sequence = known.next_start_ns, known.next_sequence
        self._open[key] = session
        return session

    def _shut(self, key: SessionKey, session: _Session) -> None:
        """No window of it is open: keep what recognises a repeat or a late batch, and no samples."""
        session.chunks = []
        session.in_order = session.even = True
        self._closed[key] = self._open.pop(key)


def _piece(block: SensorBlock) -> Piece | None:
    samples = len(block.values)
    if not samples:
        return None
    if block.offsets_us is None:
        period = block.period_ns or 0
        return Piece(block.values, block.start_ns, block.start_ns + (samples - 1) * period, period)
    times = block.times_ns()
    return Piece(block.values, int(times[0]), int(times[-1]), 0, times)


def _before(piece: Piece, limit_ns: int) -> int:
    """How many of its samples are before a time."""
    if piece.irregular is not None:
        return int(np.searchsorted(piece.irregular, limit_ns))
    behind_ns = limit_ns - piece.first_ns
    if behind_ns <= 0:
        return 0
    return min(len(piece.values), -(-behind_ns // piece.period_ns) if piece.period_ns else len(piece.values))


def _joined(before: Piece, after: Piece) -> Piece:
    """Two blocks of one sensor in one batch."""
    values = np.concatenate([before.values, after.values])
    if before.period_ns == after.period_ns > 0 and after.first_ns == before.last_ns + before.period_ns:
        return Piece(values, before.first_ns, after.last_ns, before.period_ns)
    times = np.concatenate([before.times_ns(), after.times_ns()])
    return Piece(values, int(times.min()), int(times.max()), 0, times)


def _sorted(chunk: Chunk) -> bool:
    """Whether the times of each of its sensors never go back; only two blocks of one sensor can."""
    return all(
        piece.irregular is None or bool((piece.irregular[1:] >= piece.irregular[:-1]).all())
        for piece in chunk.pieces.values()
    )


def _in_order(chunks: list[Chunk], newest_ns: int) -> bool:
    if not all(_sorted(chunk) for chunk in chunks) or (
        chunks and chunks[-1].pieces and chunks[-1].last_ns != newest_ns
    ):
        return False
    return all(a.offset <= b.offset and not a.ends_session and a.last_ns <= b.first_ns for a, b in pairwise(chunks))


def _even(chunks: list[Chunk]) -> bool:
    """Of chunks in order; in that of a chunk whose first neighbour was dropped it does not matter what it goes on from."""
    return all(chunk.ticks for chunk in chunks) and all(chunk.continues for chunk in chunks[1:])
