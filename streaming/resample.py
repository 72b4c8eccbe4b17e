"""Samples at any times → a uniform grid, with its gaps.

Linear interpolation between the two samples around a grid point, if they are at most ``max_gap_ns`` apart. All times are
integers and the fractions are taken between them, so that the values do not depend on how a signal was split into calls:
a window cut after a restart is bit for bit the one that would have been cut before.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.int64]
Values = NDArray[np.float32]


def resample(times: Times, values: Values, *, grid: Times, period_ns: int, max_gap_ns: int) -> Values:
    """Bring one sensor's samples to a grid.

    Args:
        times: sorted sample times, int64 [n], ns.
        values: float32 [n, axes].
        grid: the times wanted, int64 [m], ns, ascending.
        period_ns: the grid's step; at the ends of a signal a sample is held for this long.
        max_gap_ns: two samples further apart have a gap between them.

    Returns:
        float32 [axes, m]; NaN where there is no signal.
    """
    if not len(times):
        return np.full((values.shape[1], len(grid)), np.nan, dtype=np.float32)
    right = np.searchsorted(times, grid, side="right")
    left = np.maximum(right - 1, 0)
    right = np.minimum(right, len(times) - 1)
    return _between(times, values, grid, left, right, period_ns=period_ns, max_gap_ns=max_gap_ns)


def _between(
    times: Times, values: Values, grid: Times, left: Times, right: Times, *, period_ns: int, max_gap_ns: int
) -> Values:
    """Values at the grid's points, each between the samples ``left`` and ``right`` of it; beyond the ends both are the nearest."""
    before = times[left]
    span = times[right] - before
    offset = grid - before
    apart = span > 0
    fraction = np.divide(offset, span, out=np.zeros(len(grid)), where=apart)
    # Beyond the first or last sample (span 0, offset not) the nearest sample is held for one step and no longer.
    gap = np.where(apart, (span > max_gap_ns) & (offset > 0), np.abs(offset) > period_ns)
    found = np.empty((values.shape[1], len(grid)), np.float32)
    for axis, channel in enumerate(np.ascontiguousarray(values.T, dtype=np.float64)):
        start = channel[left]
        step = channel[right]
        step -= start
        step *= fraction
        step += start
        found[axis] = step
    found[:, gap] = np.nan
    return found


class Stretches(NamedTuple):
    """Samples of several stretches of signals, one after the other, and the grid of each.

    n samples and m grid points in all, r stretches. A stretch has at least one sample.
    """

    times: Times
    """[n], sorted within a stretch."""
    values: Values
    """[n, axes]"""
    lengths: Times
    """[r] samples of each stretch."""
    origins: Times
    """[r] first grid point of each."""
    points: Times
    """[r] grid points of each."""

    def keys(self, rate_hz: int) -> tuple[Times, Times]:
        """([n], [r]): an order of all samples, stretch by stretch, and what to add to a time of a stretch's grid to find it there.

        Times far outside of a grid are drawn to its edges, so that no hours offline and no clock's jump can overflow.
        """
        length = self.points * 1_000_000_000 // rate_hz + 1
        shifts = np.concatenate([[0], np.cumsum(length + 3)[:-1]]) - self.origins
        spread = np.clip(
            self.times, np.repeat(self.origins - 1, self.lengths), np.repeat(self.origins + length + 1, self.lengths)
        )
        return spread + np.repeat(shifts, self.lengths), shifts


def resample_stretches(these: Stretches, *, rate_hz: int, max_gap_ns: int) -> Values:
    """:func:`resample` of many stretches at once, each to its grid of ``rate_hz``.

    Returns:
        float32 [axes, m].
    """
    ends = np.cumsum(these.lengths)
    number = np.repeat(np.arange(len(ends)), these.points)
    step = np.arange(int(these.points.sum())) - np.repeat(np.cumsum(these.points) - these.points, these.points)
    grid = these.origins[number] + step * 1_000_000_000 // rate_hz
    period_ns = 1_000_000_000 // rate_hz
    if period_ns * rate_hz == 1_000_000_000:
        right = _counted(these, period_ns)
    else:
        keys, shifts = these.keys(rate_hz)
        right = np.searchsorted(keys, grid + shifts[number], side="right")
    first, last = (ends - these.lengths)[number], (ends - 1)[number]
    left = np.maximum(right - 1, first)
    right = np.minimum(right, last)
    return _between(these.times, these.values, grid, left, right, period_ns=period_ns, max_gap_ns=max_gap_ns)


def _counted(these: Stretches, period_ns: int) -> Times:
    """[m]: for each grid point the number of samples in all stretches before and up to it, by counting instead of searching."""
    # A sample belongs to the first grid point that is not before it; those after the last point have a place of their own.
    slots = -((np.repeat(these.origins, these.lengths) - these.times) // period_ns)
    slots = np.clip(slots, 0, np.repeat(these.points, these.lengths))
    places = these.points + 1
    begins = np.cumsum(places) - places
    slots += np.repeat(begins, these.lengths)
    counts = np.cumsum(np.bincount(slots, minlength=int(places.sum())))
    counted: Times = np.delete(counts, begins + these.points)
    return counted


def largest_gap_ns(times: Times, start_ns: int, end_ns: int) -> int:
    """The longest stretch of [start, end) without a sample, counted from and to its edges."""
    edges = np.array([start_ns]), np.array([end_ns])
    begin, end = (np.searchsorted(times, edge) for edge in edges)
    return int(largest_gaps_ns(times, *edges, begin, end)[0])


def largest_gaps_ns(times: Times, starts_ns: Times, ends_ns: Times, begin: Times, end: Times) -> Times:
    """:func:`largest_gap_ns` of many stretches at once, which may overlap; ``times[begin:end]`` are those in it. [k] ns."""
    some = end > begin
    if not some.any():
        return ends_ns - starts_ns
    first, last = np.where(some, begin, 0), np.where(some, end - 1, 0)
    steps = np.append(np.diff(times), 0)
    # Pairs of indices are stretches; what lies between one pair and the next is computed and left out. A stretch of one
    # sample has no step in it, and would be given that to the sample after.
    inside = np.maximum.reduceat(steps, np.stack([first, last], axis=1).ravel())[::2]
    edges = np.maximum(times[first] - starts_ns, ends_ns - times[last])
    return np.where(some, np.maximum(edges, np.where(last > first, inside, 0)), ends_ns - starts_ns)
