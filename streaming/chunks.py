"""What is kept of a batch until its windows are cut."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from streaming.resample import Times, Values
from streaming.wire import SensorBlock


@dataclass(slots=True)
class Piece:
    """The samples of one sensor in one batch."""

    values: Values
    first_ns: int
    last_ns: int
    period_ns: int
    """From one sample to the next; 0: as ``irregular`` says."""
    irregular: Times | None = None

    @property
    def nbytes(self) -> int:
        """Of samples and times."""
        return self.values.nbytes + (0 if self.irregular is None else self.irregular.nbytes)

    def times_ns(self) -> Times:
        """(n,) event times."""
        if self.irregular is not None:
            return self.irregular
        return np.arange(len(self.values), dtype=np.int64) * self.period_ns + self.first_ns

    def before(self, limit_ns: int) -> int:
        """How many of the samples are before a time."""
        if self.irregular is not None:
            return int(np.searchsorted(self.irregular, limit_ns))
        behind_ns = limit_ns - self.first_ns
        if behind_ns <= 0:
            return 0
        return min(len(self.values), -(-behind_ns // self.period_ns) if self.period_ns else len(self.values))


@dataclass(slots=True)
class Chunk:
    """What is kept of one batch."""

    offset: int
    scene: str | None
    pieces: dict[str, Piece]
    first_ns: int
    last_ns: int
    ends_session: bool
    ticks: bool = False
    """Whether all of its sensors tick evenly, at least once a hop …"""
    continues: bool = False
    """… and go on where the chunk before left off, without a break."""

    @property
    def in_order(self) -> bool:
        """Whether the times of each of its sensors never go back; only two blocks of one sensor can."""
        return all(
            piece.irregular is None or bool((piece.irregular[1:] >= piece.irregular[:-1]).all())
            for piece in self.pieces.values()
        )

    def goes_on_from(self, before: Chunk) -> bool:
        """Whether all sensors of both tick on without a break."""
        if not self.ticks or not before.ticks or before.pieces.keys() != self.pieces.keys():
            return False
        for name, piece in self.pieces.items():
            last = before.pieces[name]
            if piece.period_ns != last.period_ns or piece.first_ns != last.last_ns + last.period_ns:
                return False
        return True


def piece_of(block: SensorBlock) -> Piece | None:
    """A block's samples; None if there are none."""
    samples = len(block.values)
    if not samples:
        return None
    if block.offsets_us is None:
        period = block.period_ns or 0
        return Piece(block.values, block.start_ns, block.start_ns + (samples - 1) * period, period)
    times = block.times_ns()
    return Piece(block.values, int(times[0]), int(times[-1]), 0, times)


def joined(before: Piece, after: Piece) -> Piece:
    """Two blocks of one sensor in one batch."""
    values = np.concatenate([before.values, after.values])
    if before.period_ns == after.period_ns > 0 and after.first_ns == before.last_ns + before.period_ns:
        return Piece(values, before.first_ns, after.last_ns, before.period_ns)
    times = np.concatenate([before.times_ns(), after.times_ns()])
    return Piece(values, int(times.min()), int(times.max()), 0, times)
