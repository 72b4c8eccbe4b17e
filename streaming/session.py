"""One session's state: what has come of it, and what is kept until its windows close. Pure."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise

import numpy as np

from streaming.chunks import Chunk
from streaming.cutting import Carrier
from streaming.sequences import Sequences

END_OF_TIME = int(np.iinfo(np.int64).max)
"""Later than any sample."""
_PACKED = struct.Struct("<6q")


@dataclass(slots=True, eq=False)
class Session:
    """See :mod:`streaming.assembler`."""

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
    newest_ns: int = -END_OF_TIME
    queued: bool = False
    """Whether the queue of needed offsets has it."""

    @property
    def complete(self) -> bool:
        """Whether the last batch and all before it have come."""
        return self.last_sequence is not None and self.sequences.covers(self.expected_sequence, self.last_sequence)

    @property
    def lowest_offset(self) -> int | None:
        """The lowest offset of its chunks."""
        if self.in_order:
            return self.chunks[0].offset if self.chunks else None
        return min((chunk.offset for chunk in self.chunks), default=None)

    def keep(self, chunk: Chunk) -> None:
        """Add a chunk that has just come."""
        before = self.chunks[-1] if self.chunks else None
        if before is not None:
            if chunk.offset < before.offset or before.ends_session or chunk.first_ns < self.newest_ns:
                self.in_order = False
            chunk.continues = chunk.goes_on_from(before)
        if not chunk.ticks and not chunk.in_order:
            self.in_order = False
        self.even = self.in_order and chunk.ticks and (before is None or (self.even and chunk.continues))
        self.chunks.append(chunk)
        if chunk.pieces:
            self.newest_ns = max(self.newest_ns, chunk.last_ns)

    def drop_before(self, keep_from_ns: int) -> None:
        """Drop the chunks that end before a time, but none that ends the session."""
        if self.in_order:
            done = 0
            for chunk in self.chunks:
                if chunk.ends_session or chunk.last_ns >= keep_from_ns:
                    break
                done += 1
            if not done:
                return
            del self.chunks[:done]
        else:
            self.chunks = [chunk for chunk in self.chunks if chunk.ends_session or chunk.last_ns >= keep_from_ns]
            self.in_order = self._in_order()
        # What the first chunk goes on from does not matter any more.
        self.even = self.in_order and (
            self.even
            or (all(chunk.ticks for chunk in self.chunks) and all(chunk.continues for chunk in self.chunks[1:]))
        )

    def span(self, from_ns: int, limit_ns: int, hop_ns: int) -> tuple[int, int] | None:
        """First and last time of the chunks that may have a window that starts in a stretch; None if there is no such chunk."""
        if self.even:
            chunks = self.chunks
            if not chunks or chunks[0].first_ns // hop_ns * hop_ns >= limit_ns or chunks[-1].last_ns < from_ns:
                return None
            return chunks[0].first_ns, chunks[-1].last_ns
        found = [
            chunk
            for chunk in self.chunks
            if chunk.pieces and chunk.first_ns // hop_ns * hop_ns < limit_ns and chunk.last_ns >= from_ns
        ]
        if not found:
            return None
        return min([chunk.first_ns for chunk in found]), max([chunk.last_ns for chunk in found])

    def _in_order(self) -> bool:
        chunks = self.chunks
        if chunks and chunks[-1].pieces and chunks[-1].last_ns != self.newest_ns:
            return False
        return all(chunk.in_order for chunk in chunks) and all(
            a.offset <= b.offset and not a.ends_session and a.last_ns <= b.first_ns for a, b in pairwise(chunks)
        )

    def packed(self) -> bytes | None:
        """A session of which no number is missing, in 48 bytes; None if it cannot be said so shortly.

        This is all that tells a repeat from news once its windows are closed: which batches came, whether the last one did, and where
        the next window would start. It is what the table would tell after a restart, and a little more.
        """
        interval = self.sequences.interval
        if interval is None or self.next_start_ns is None:
            return None
        last = -1 if self.last_sequence is None else self.last_sequence
        return _PACKED.pack(self.next_start_ns, self.expected_sequence, *interval, last, self.newest_ns)

    @classmethod
    def unpacked(cls, packed: bytes, carrier: Carrier, now: datetime) -> Session:
        """The opposite."""
        next_start_ns, expected, first, stop, last, newest_ns = _PACKED.unpack(packed)
        return cls(
            carrier=carrier, touched=now, next_start_ns=next_start_ns, expected_sequence=expected,
            sequences=Sequences(first, stop), last_sequence=None if last < 0 else last, newest_ns=newest_ns,
        )  # fmt: skip
