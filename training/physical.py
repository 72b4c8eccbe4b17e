"""Whether a window holds a signal at all, whatever it is of: no label is looked at, and no other window.

Each check says how much of the window passes, from 0 to 1. All of them work on the grid that the lake keeps, where a sensor's
samples are joined by straight lines: so a clock that stutters shows as lines that are longer than the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter1d, minimum_filter1d

from training.dataset import WindowSet
from training.spectrogram import by_sensor, triads

Array = NDArray[np.float64]
_GRAVITY = 9.81
_FLAT = 1e-8
"""Variance below which a channel is a flat line: float32 has noise of its own, and every sensor far more."""
_EXACT = 1e-6
"""Difference, relative to a channel's largest value, that float32 does not tell from none."""
_PLATEAU = 3
"""Equal samples in a row, at an end of a channel's range, that were cut off there; two can be chance."""
_TOPS = 4
"""Plateaus at the ends of a range, at least: one or two may be turning points."""
_INSIDE = 4
"""Times as many plateaus at the ends of a range as inside: a sensor of coarse numbers has them everywhere."""
_AT_REST = {"acc": 2.0, "gyr": 0.5, "mag": 5.0}
"""Sensor → range of a channel, in its unit (m/s², rad/s, µT), below which the phone is at rest: no sensor's range ends there, and coarse
numbers flicker between a few values. Of a sensor that is not named here nobody knows, and its range is not checked."""
_STALL_S, _STALL = 0.1, 2.0
"""A step is a stall if it is longer than this, in seconds, and than so many usual ones."""
_AT_ONCE = 1 << 23
"""Values that are checked at once: it takes several copies of them, some 100 MiB."""


def physical_quality(checks: Mapping[str, Array]) -> Array:
    """(n,) what the worst of :func:`physical_checks` says: several of them see the same lost samples."""
    worst: Array = np.min(list(checks.values()), axis=0)
    return worst


def physical_checks(windows: WindowSet) -> dict[str, Array]:
    """Check → (n,) how well windows pass it, from 0 to 1.

    ``coverage``: share of the grid backed by samples; ``channels that move``: share of the channels there are that are no flat line;
    ``gravity``: the acceleration's root mean square over 0.7 g, at most 1; 1 where there is no accelerometer; ``range``: share of the
    samples not cut off at an end of the sensor's range, in the channel with most of them; ``clock``: share of the time that has a
    signal not in steps much longer than usual between samples, of the sensor with most of them.

    Tops of a phone at rest, of a sensor other than accelerometer, gyroscope and magnetometer, or on a grid of less than some 10 Hz are not
    seen to be cut off.
    """
    at_once = max(1, _AT_ONCE // max(1, windows.signals[:1].size))
    parts = [windows.signals[at : at + at_once] for at in range(0, max(len(windows), 1), at_once)]
    axes, sensors, least = triads(windows.channels).get("acc"), by_sensor(windows.channels), _least(windows.channels)
    stall = max(2, round(_STALL_S * windows.rate_hz))
    moving, gravity = zip(*(_moving_and_gravity(part, axes) for part in parts), strict=True)
    stalled = [np.max([_stalled(part[:, each], stall) for each in sensors.values()], axis=0) for part in parts]
    return {
        "coverage": np.clip(windows.coverage.astype(np.float64), 0, 1),
        "channels that move": np.concatenate(moving),
        "gravity": np.concatenate(gravity),
        "range": 1 - np.concatenate([_clipped(part, least) for part in parts]),
        "clock": 1 - np.concatenate(stalled),
    }


def moves(signals: NDArray[np.float32], channels: Sequence[str]) -> NDArray[np.bool_]:
    """(n,) whether the phone is not at rest, by (n, c, t) signals: the range of some channel is more than coarse numbers flicker."""
    there = ~np.isnan(signals)
    ranges = np.where(there, signals, -np.inf).max(2) - np.where(there, signals, np.inf).min(2)
    return np.asarray(np.any(ranges >= _least(channels), axis=1))


def _least(channels: Sequence[str]) -> Array:
    """(c,) the range of each channel below which the phone is at rest."""
    least = np.empty(len(channels))
    for sensor, axes in by_sensor(channels).items():
        least[axes] = _AT_REST.get(sensor, np.inf)
    return least


def _moving_and_gravity(signals: NDArray[np.float32], axes: tuple[int, ...] | None) -> tuple[Array, Array]:
    with np.errstate(invalid="ignore"):
        present: NDArray[np.bool_] = np.asarray(~np.isnan(signals))
        count = np.maximum(present.sum(2), 1)
        mean = np.where(present, signals, 0).sum(2) / count
        spread = np.where(present, signals - mean[..., None], 0) ** 2
    there: NDArray[np.bool_] = np.asarray(present.any(axis=2))
    flat = ((spread.sum(2) / count < _FLAT) & there).sum(1) / np.maximum(there.sum(1), 1)
    gravity: Array = np.ones(len(signals))
    if axes is not None:
        complete = np.all(present[:, list(axes)], axis=1)
        squares = np.where(complete, (np.nan_to_num(signals[:, list(axes)]).astype(np.float64) ** 2).sum(1), 0)
        size = np.sqrt(squares.sum(1) / np.maximum(complete.sum(1), 1))
        measured = np.any(complete, axis=1)
        # Running doubles it and a phone's gain may be off by a tenth; nothing near zero is an accelerometer at work.
        gravity = np.where(measured, np.clip(size / (0.7 * _GRAVITY), 0, 1), 1.0)
    return 1 - flat, gravity


def _clipped(signals: NDArray[np.float32], least: Array) -> Array:
    """(n,) share of samples cut off at an end of their channel's range, of the channel with most of them.

    Args:
        signals: (n, channels, t).
        least: (channels,) range of one that moves.
    """
    if signals.shape[2] < _PLATEAU:
        return np.zeros(len(signals))
    there = ~np.isnan(signals)
    high = np.where(there, signals, -np.inf).max(2, keepdims=True)
    low = np.where(there, signals, np.inf).min(2, keepdims=True)
    with np.errstate(invalid="ignore"):
        exact = _EXACT * np.maximum(np.abs(high), np.abs(low))
        still = np.zeros(signals.shape, bool)
        still[:, :, 1:] = np.abs(np.diff(signals, axis=2)) <= exact
        plateau = _longer(still, _PLATEAU - 1)
        # A plateau's first sample is the one that the others are equal to.
        plateau[:, :, :-1] |= plateau[:, :, 1:]
        end = (signals >= high - exact) | (signals <= low + exact)
    count = np.maximum(there.sum(2), 1)
    tops = plateau & end
    at_end, inside = tops.sum(2) / count, (plateau & ~end).sum(2) / count
    wide = (high - low)[..., 0] >= least
    several = (tops[:, :, 1:] & ~tops[:, :, :-1]).sum(2) + tops[:, :, 0] >= _TOPS
    clipped: Array = np.where(wide & several & (at_end > _INSIDE * inside), at_end, 0.0).max(1)
    return clipped


def _stalled(signals: NDArray[np.float32], stall: int) -> Array:
    """(n,) share of the time that has a signal in steps between samples that are longer than ``stall`` and than twice the usual one.

    Usual is the lower quartile of a window's steps: many of them may be stalls. Between two samples all axes go straight; where nothing
    moves, nothing is known of the clock.

    Args:
        signals: (n, axes, t) of one sensor.
        stall: grid points.
    """
    n, _, length = signals.shape
    if length < 3:
        return np.zeros(n)
    missing: NDArray[np.bool_] = np.asarray(np.isnan(signals))
    absent: NDArray[np.bool_] = np.asarray(missing.all(axis=2))
    there = np.all(~missing | absent[..., None], axis=1) & ~np.all(absent, axis=1, keepdims=True)
    largest = np.where(missing, 0, np.abs(signals)).max(2, keepdims=True)
    with np.errstate(invalid="ignore"):
        steps = np.diff(signals, axis=2)
        straight = ((np.abs(np.diff(steps, axis=2)) <= 2 * _EXACT * largest) | absent[..., None]).all(1)
        moving = (np.abs(steps) > _EXACT * largest).any(1)
    known = moving[:, 1:] & moving[:, :-1] & there[:, 2:] & there[:, 1:-1] & there[:, :-2]
    inner, samples = known & straight, known & ~straight
    limits = np.maximum(np.ceil(_STALL * _usual_steps(inner, samples)), stall).astype(int)
    long = np.zeros(inner.shape, bool)
    for limit in np.unique(limits):
        rows = limits == limit
        long[rows] = _longer(inner[rows], int(limit))
    share: Array = long.sum(1) / np.maximum(there.sum(1), 1)
    return share


def _usual_steps(inner: NDArray[np.bool_], samples: NDArray[np.bool_]) -> Array:
    """(n,) lower quartile of the steps from sample to sample, in grid points; 1 where there is none.

    Args:
        inner: (n, t) which grid points lie between two samples.
        samples: (n, t) which are at a sample, or beside one.
    """
    n, length = inner.shape
    padded = np.zeros((n, length + 2), np.int8)
    padded[:, 1:-1] = inner
    edges = np.diff(padded, axis=1)
    row, begin = np.nonzero(edges == 1)
    lengths = np.nonzero(edges == -1)[1] - begin + 1
    # One sample between two grid points bends the line at both: only a third bend in a row is a step of one.
    pairs = samples[:, 1:] & samples[:, :-1]
    single = (pairs[:, 1:] & pairs[:, :-1]).sum(1)
    counts = np.bincount(row, minlength=n)
    # The steps of one grid point come first; then the others, sorted within their window.
    wanted = (counts + single) // 4
    ordered = lengths[np.lexsort((lengths, row))]
    first = np.cumsum(counts) - counts
    usual = np.ones(n)
    longer = (wanted >= single) & (counts > 0)
    usual[longer] = ordered[(first + wanted - single)[longer]]
    return usual


def _longer(marks: NDArray[np.bool_], length: int) -> NDArray[np.bool_]:
    """Marks, of the last axis, that are in a row of at least so many."""
    if not marks.size:
        return marks
    # Opening (erosion, then dilation): the second window lies the other way round, or an even length would shift the rows.
    eroded = minimum_filter1d(marks.astype(np.uint8), length, axis=-1, mode="constant")
    origin = -1 if length % 2 == 0 else 0
    return np.asarray(maximum_filter1d(eroded, length, axis=-1, mode="constant", origin=origin), bool)
