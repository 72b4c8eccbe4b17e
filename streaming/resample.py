"""Samples at any times → a uniform grid, with its gaps.

Linear interpolation between the two samples around a grid point, if they are at most ``max_gap_ns`` apart. All times are
integers and the fractions are taken between them, so that the values do not depend on how a signal was split into calls:
a window cut after a restart is bit for bit the one that would have been cut before.
"""

from __future__ import annotations

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
    before, after = times[left], times[right]
    span = after - before
    offset = grid - before
    fraction = np.divide(offset, span, out=np.zeros(len(grid)), where=span > 0)
    start = values[left].astype(np.float64)
    out = start + (values[right] - start) * fraction[:, None]
    # Beyond the first or last sample (span 0, offset not) the nearest sample is held for one step and no longer.
    gap = np.where(span > 0, (span > max_gap_ns) & (offset > 0), np.abs(offset) > period_ns)
    out[gap] = np.nan
    return np.ascontiguousarray(out.T, dtype=np.float32)


def largest_gap_ns(times: Times, start_ns: int, end_ns: int) -> int:
    """The longest stretch of [start, end) without a sample, counted from and to its edges."""
    return int(largest_gaps_ns(times, np.array([start_ns]), np.array([end_ns]))[0])


def largest_gaps_ns(times: Times, starts_ns: Times, ends_ns: Times) -> Times:
    """:func:`largest_gap_ns` of many stretches at once, which may overlap; [k] ns."""
    begin, end = np.searchsorted(times, starts_ns), np.searchsorted(times, ends_ns)
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
