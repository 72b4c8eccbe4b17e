"""Whether a window holds a signal at all, whatever it is of: no label is looked at, and no other window.

Each check says how much of the window passes, from 0 to 1. All of them work on the grid that the lake keeps, where a sensor's
samples are joined by straight lines: so a clock that stutters shows as lines that are longer than the others.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter1d, minimum_filter1d

from training.dataset import WindowSet

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
_REST_S = 0.5
"""A plateau of so long is no wave whose top is cut off, but a phone at rest whose sensor reports changes only."""
_INSIDE = 4
"""Times as many plateaus at the ends of a range as inside: a sensor of coarse numbers has them everywhere."""
_VARIED = 0.7
"""Share of the values inside a range that differ from each other, at least: at rest a coarse sensor flickers between a few."""
_STALL_S, _STALL = 0.1, 2.0
"""A step is a stall if it is longer than this, in seconds, and than so many of the usual ones."""
_AT_ONCE = 2048
"""Windows whose signals are checked at once: each takes several copies of them."""


def physical_quality(windows: WindowSet) -> Array:
    """(n,) the product of all :func:`physical_checks`."""
    checks = physical_checks(windows)
    quality = np.ones(len(windows))
    # In their order: a product's last bits depend on it.
    for check in checks.values():
        quality = quality * check
    return quality


def physical_checks(windows: WindowSet) -> dict[str, Array]:
    """Check → (n,) how well windows pass it, from 0 to 1.

    ``coverage``: share of the grid backed by samples; ``channels that move``: share of the channels there are that are no flat line;
    ``gravity``: the acceleration's root mean square over 0.7 g, at most 1; 1 where there is no accelerometer; ``range``: share of the
    samples not cut off at an end of the sensor's range, in the channel with most of them; ``clock``: share of the time not in steps
    much longer than usual between samples, of the sensor with most of them.
    """
    parts = [windows.signals[at : at + _AT_ONCE] for at in range(0, max(len(windows), 1), _AT_ONCE)]
    axes = [windows.channels.index(name) for name in ("acc_x", "acc_y", "acc_z") if name in windows.channels]
    sensors: dict[str, list[int]] = {}
    for at, name in enumerate(windows.channels):
        sensors.setdefault(name.split("_")[0], []).append(at)
    stall = max(2, round(_STALL_S * windows.rate_hz))
    moving, gravity = zip(*(_moving_and_gravity(part, axes) for part in parts), strict=True)
    return {
        "coverage": np.clip(windows.coverage.astype(np.float64), 0, 1),
        "channels that move": np.concatenate(moving),
        "gravity": np.concatenate(gravity),
        "range": np.concatenate(
            [1 - _clipped(part, max(_PLATEAU, round(_REST_S * windows.rate_hz))) for part in parts]
        ),
        "clock": np.concatenate(
            [np.min([1 - _stalled(part[:, each], stall) for each in sensors.values()], axis=0) for part in parts]
        ),
    }


def _moving_and_gravity(signals: NDArray[np.float32], axes: list[int]) -> tuple[Array, Array]:
    with np.errstate(invalid="ignore"):
        present: NDArray[np.bool_] = np.asarray(~np.isnan(signals))
        count = np.maximum(present.sum(2), 1)
        mean = np.where(present, signals, 0).sum(2) / count
        spread = np.where(present, signals - mean[..., None], 0) ** 2
    there: NDArray[np.bool_] = np.asarray(present.any(axis=2))
    flat = ((spread.sum(2) / count < _FLAT) & there).sum(1) / np.maximum(there.sum(1), 1)
    gravity: Array = np.ones(len(signals))
    if len(axes) == 3:
        size = np.sqrt(np.where(present[:, axes], signals[:, axes].astype(np.float64) ** 2, 0).sum(1).mean(1))
        measured = there[:, axes].all(1)
        # Running doubles it and a phone's gain may be off by a tenth; nothing near zero is an accelerometer at work.
        gravity = np.where(measured, np.clip(size / (0.7 * _GRAVITY), 0, 1), 1.0)
    return 1 - flat, gravity


def _clipped(signals: NDArray[np.float32], rest: int) -> Array:
    """(n,) share of samples cut off at an end of their channel's range, of the channel with most of them.

    Args:
        signals: (n, channels, t).
        rest: grid points of a plateau that is no cut top.
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
        resting = _longer(plateau, rest)
        end = (signals >= high - exact) | (signals <= low + exact)
    count = np.maximum(there.sum(2), 1)
    tops = plateau & end & ~resting
    at_end, inside = tops.sum(2) / count, (plateau & ~end).sum(2) / count
    between = np.sort(np.where(there & ~end & ~plateau, signals, np.nan), axis=2)
    with np.errstate(invalid="ignore"):
        differ = (np.diff(between, axis=2) > exact).sum(2) + 1
    varied = differ >= _VARIED * np.maximum((~np.isnan(between)).sum(2), 1)
    several = (tops[:, :, 1:] & ~tops[:, :, :-1]).sum(2) + tops[:, :, 0] >= _TOPS
    clipped: Array = np.where(varied & several & (at_end > _INSIDE * inside), at_end, 0.0).max(1)
    return clipped


def _stalled(signals: NDArray[np.float32], stall: int) -> Array:
    """(n,) share of the time in steps between a sensor's samples that are longer than ``stall`` grid points and than most of its steps.

    Args:
        signals: (n, axes, t) of one sensor.
        stall: grid points.
    """
    n, _, length = signals.shape
    if length < 3:
        return np.zeros(n)
    with np.errstate(invalid="ignore"):
        exact = _EXACT * np.nanmax(np.abs(signals), axis=2, keepdims=True, initial=0)
        steps = np.diff(signals, axis=2)
        straight = (np.abs(np.diff(steps, axis=2)) <= 2 * exact).all(1)
        moves = (np.abs(steps[:, :, 1:]) > exact).any(1)
    # Between two samples all axes go straight; a sensor that says the same again and again says nothing about its clock.
    inner = straight & moves
    gaps = ~inner
    usual = np.maximum(gaps.shape[1] / np.maximum(gaps.sum(1), 1), 1.0)
    long = np.zeros(inner.shape, bool)
    for points in np.unique(np.ceil(np.maximum(_STALL * usual, stall))).astype(int):
        rows = np.ceil(np.maximum(_STALL * usual, stall)) == points
        long[rows] = _longer(inner[rows], int(points))
    share: Array = long.sum(1) / inner.shape[1]
    return share


def _longer(marks: NDArray[np.bool_], length: int) -> NDArray[np.bool_]:
    """Marks, of the last axis, that are in a row of at least so many."""
    if not marks.size:
        return marks
    # Opening (erosion, then dilation): the second window lies the other way round, or an even length would shift the rows.
    eroded = minimum_filter1d(marks.astype(np.uint8), length, axis=-1, mode="constant")
    origin = -1 if length % 2 == 0 else 0
    return np.asarray(maximum_filter1d(eroded, length, axis=-1, mode="constant", origin=origin), bool)
