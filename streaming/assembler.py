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
from dataclasses import dataclass
from datetime import datetime, timedelta

from streaming.chunks import Chunk, Piece, joined, piece_of
from streaming.cutting import Carrier, ClosedWindows, Closing, SessionKey, cut
from streaming.session import END_OF_TIME, Session
from streaming.settings import WindowSettings
from streaming.wire import SensorBatch

__all__ = ["Assembler", "ClosedWindows", "SessionKey", "SessionMemory"]

_MICROSECOND = timedelta(microseconds=1)
_CHUNK_BYTES = 1_024
"""What Python's objects around the samples of a batch take, about."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionMemory:
    """What the table knows of a session."""

    next_start_ns: int
    """Windows that start before this are published."""
    next_sequence: int
    """Sequence numbers below this had all come when the last window closed."""


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
        self._open: OrderedDict[SessionKey, Session] = OrderedDict()
        """Those that were silent longest come first."""
        self._closed: dict[SessionKey, bytes | Session] = {}
        """What recognises repeats of sessions that are not open, for ever: a repeat may come at any time. See :meth:`Session.packed`."""
        self._needed: list[tuple[int, int, Session]] = []
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

    def held_bytes(self) -> int:
        """About how much memory the batches of open windows, and of those that wait to be cut, take. Looks at each of them."""
        held = {id(chunk): chunk for session in self._open.values() for chunk in session.chunks}
        held |= {id(chunk): chunk for closing in self._waiting for chunk in closing.chunks}
        return sum(_CHUNK_BYTES + sum(piece.nbytes for piece in chunk.pieces.values()) for chunk in held.values())

    def open_since_ns(self) -> int | None:
        """Event time (ns) from which on windows are open or wait; None if none is. Nothing before it is still to come out."""
        hop = self._hop_ns
        starts = [
            session.next_start_ns
            if session.next_start_ns is not None
            else min(chunk.first_ns // hop * hop for chunk in session.chunks)
            for session in self._open.values()
            if any(chunk.pieces for chunk in session.chunks)
        ]
        for closing in self._waiting:
            first_ns = min(chunk.first_ns for chunk in closing.chunks) // hop * hop
            starts.append(max(closing.from_ns, first_ns))
        return min(starts, default=None)

    def add(self, batch: SensorBatch, offset: int, now: datetime) -> list[ClosedWindows]:
        """Take a batch; returns windows that were cut."""
        key = SessionKey(batch.device_id, batch.session_id)
        session = self._open.get(key)
        if session is None:
            session = self._opened(key, batch, now)
        newest_sequence = session.sequences.next
        if not session.sequences.add(batch.sequence):
            self.counters["duplicate_batches"] += 1
            if not session.chunks:
                self._shut(key, session)
            return []
        # Not for a repeat: a phone that sends one batch again and again would keep its session open for ever.
        self._open.move_to_end(key)
        session.touched = now
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
        # Also where the session is complete: a restart may not see that it is, and must close the same windows together.
        self._close(key, session, session.newest_ns - self._behind_ns)
        if session.complete:
            self._close(key, session, END_OF_TIME)
            self._shut(key, session)
        elif not session.chunks:  # nothing of a late batch was kept: its session is as closed as before
            self._shut(key, session)
        return self.flush() if self._waiting_windows >= self._together else []

    def idle(self, now: datetime) -> bool:
        """Whether there is an open session that was silent for the idle time-out."""
        return bool(self._open) and now - next(iter(self._open.values())).touched >= self._settings.idle_timeout

    def close_idle(self, now: datetime) -> list[ClosedWindows]:
        """Close sessions that were silent for the idle time-out: as many as are cut together; more wait while :meth:`idle`."""
        while self._waiting_windows < self._together and self.idle(now):
            key, session = next(iter(self._open.items()))
            self._close(key, session, END_OF_TIME)
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

    def _chunk(self, session: Session, batch: SensorBatch, offset: int, *, count_late: bool) -> Chunk | None:
        """The part of a batch that open windows can use; None if there is none. The rest is late, or published already."""
        pieces: dict[str, Piece] = {}
        for block in batch.blocks:
            if block.sensor not in self._sensors:
                self.counters["unused_samples"] += len(block.values)
                continue
            piece = piece_of(block)
            if piece is not None:
                if count_late and session.next_start_ns is not None:
                    self.counters["late_samples"] += piece.before(session.next_start_ns)
                before = pieces.get(block.sensor)
                pieces[block.sensor] = piece if before is None else joined(before, piece)
        if session.next_start_ns is not None:
            # All of a batch or nothing, by the rule of Session.drop_before: a restart that kept fewer samples of it than the run
            # before would take a gap for the beginning of a signal.
            keep_from_ns = session.next_start_ns - self._max_gap_ns
            if all(piece.last_ns < keep_from_ns for piece in pieces.values()):
                pieces = {}
        if not pieces:
            # An end marker is kept until the session closes: after a restart it must be read again.
            return (
                Chunk(offset, None, {}, END_OF_TIME, END_OF_TIME, ends_session=True) if batch.end_of_session else None
            )
        first_ns = min([piece.first_ns for piece in pieces.values()])
        last_ns = max([piece.last_ns for piece in pieces.values()])
        return Chunk(offset, batch.scene, pieces, first_ns, last_ns, batch.end_of_session, ticks=self._ticks(pieces))

    def _ticks(self, pieces: dict[str, Piece]) -> bool:
        """See :class:`streaming.cutting.Chunk`; sensors that overlap, so that every hop from the first to the last has a sample."""
        first_ns, last_ns = -1, END_OF_TIME
        for piece in pieces.values():
            if not 0 < piece.period_ns <= self._hop_ns:
                return False
            first_ns = max(first_ns, piece.first_ns)
            last_ns = min(last_ns, piece.last_ns)
        return first_ns <= last_ns

    def _keep(self, session: Session, chunk: Chunk) -> None:
        session.keep(chunk)
        if not session.queued:
            session.queued = True
            heapq.heappush(self._needed, (chunk.offset, self._tie(), session))

    def _tie(self) -> int:
        self._queued += 1
        return self._queued

    def _close(self, key: SessionKey, session: Session, limit_ns: int) -> None:
        """Close the windows that start before ``limit_ns``."""
        if session.newest_ns < 0:
            return  # no sample has come, only that it ends
        hop = self._hop_ns
        from_ns = session.next_start_ns or 0
        if session.next_start_ns is not None and limit_ns <= from_ns:
            return
        found = session.span(from_ns, limit_ns, hop)
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
            if limit_ns == END_OF_TIME:
                session.next_start_ns = last_ns // hop * hop + hop
        if limit_ns == END_OF_TIME:
            return
        # Also where no window was: whether a batch is late must not depend on what a restart has read again before it.
        session.next_start_ns = -(-limit_ns // hop) * hop
        session.drop_before(session.next_start_ns - self._max_gap_ns)

    def _opened(self, key: SessionKey, batch: SensorBatch, now: datetime) -> Session:
        """A session's state: as it was when it closed, as the table tells it, or new."""
        closed = self._closed.pop(key, None)
        carrier = Carrier(batch.subject_id, batch.phone_model, batch.position, batch.cohort)
        if isinstance(closed, bytes):
            closed = Session.unpacked(closed, carrier, now)
        session = closed or Session(carrier=carrier, touched=now)
        known = self._memory.get(key)
        if known is not None and session.next_start_ns is None:
            session.next_start_ns, session.expected_sequence = known.next_start_ns, known.next_sequence
        self._open[key] = session
        return session

    def _shut(self, key: SessionKey, session: Session) -> None:
        """No window of it is open: keep what recognises a repeat or a late batch, and no samples."""
        session.chunks = []
        session.in_order = session.even = True
        del self._open[key]
        self._closed[key] = session.packed() or session
