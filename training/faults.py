"""Faults planted in windows whose labels are right, to see whether the quality score finds them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from training import rules
from training.dataset import WindowSet
from training.errors import DataError
from training.physical import moves

Kind = Literal["uniform", "look_alike", "session", "subject", "signal"]
"""``uniform``: windows labelled as any other scene. ``look_alike``: as the scene that theirs is taken for most easily. ``session``: all
windows of a session as another scene. ``subject``: all windows of some people, each of their scenes as another. ``signal``: the label is
right and the signal is not: sensors that stand still, a gap, an accelerometer without gravity, tops that are cut off, a clock that
stutters."""
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Faulty:
    """Windows with faults."""

    windows: WindowSet
    faulty: NDArray[np.bool_]
    """(n,) which of them have one."""


def plant_faults(
    windows: WindowSet, kind: Kind, share: float, *, features: NDArray[np.floating], seed: int = 0
) -> Faulty:
    """Plant faults of a kind in a share of labelled windows.

    Args:
        windows: n labelled windows, of at least two scenes; all labels right.
        kind: of the faults.
        share: of the windows, 0 to 1; whole sessions and people are taken until so many windows have one.
        features: (n, d) by which scenes look alike.
        seed: which windows.

    Raises:
        DataError: there are not two scenes.
        SettingsError: the share is none.
    """
    rules.check("faults", _Share(share), share=rules.SHARE)
    scenes = np.unique(windows.scenes)
    if len(scenes) < 2:
        msg = "Faults are planted in windows of at least two scenes: with one, no label can be wrong."
        raise DataError(msg)
    rng = np.random.default_rng(seed)
    if kind == "signal":
        chosen = _some(len(windows), share, rng)
        return Faulty(windows=_corrupted(windows, chosen, rng), faulty=chosen)
    if kind in {"session", "subject"}:
        groups = windows.session_groups() if kind == "session" else windows.groups()
        chosen = _some_groups(groups, share, rng)
        other = _by_group(windows.scenes, groups, scenes, rng)
    else:
        chosen = _some(len(windows), share, rng)
        other = (
            look_alikes(windows, features)[windows.scenes]
            if kind == "look_alike"
            else scenes[
                (np.searchsorted(scenes, windows.scenes) + rng.integers(1, len(scenes), len(windows))) % len(scenes)
            ]
        )
    return Faulty(
        windows=replace(windows, scenes=np.where(chosen, other, windows.scenes), verified=None), faulty=chosen
    )


def look_alikes(windows: WindowSet, features: NDArray[np.floating]) -> NDArray[np.int64]:
    """(scenes,) for each scene the other one that is nearest: by the mean features, relative to how far both spread; itself if absent."""
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    found = np.arange(len(windows.scene_names))
    there = np.unique(windows.scenes)
    means = np.stack([unit[windows.scenes == scene].mean(0) for scene in there])
    spread = np.array(
        [
            np.linalg.norm(unit[windows.scenes == scene] - mean, axis=1).mean()
            for scene, mean in zip(there, means, strict=True)
        ]
    )
    apart = np.linalg.norm(means[:, None] - means[None], axis=2) / np.maximum(spread[:, None] + spread[None], 1e-12)
    np.fill_diagonal(apart, np.inf)
    found[there] = there[apart.argmin(1)]
    return found


@dataclass(frozen=True, slots=True)
class _Share:
    share: float


def _some(count: int, share: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    chosen = np.zeros(count, bool)
    chosen[rng.permutation(count)[: round(share * count)]] = True
    return chosen


def _some_groups(groups: NDArray[np.int64], share: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Whole groups, drawn until their windows are about the share: the last is left out if that is nearer. One at least."""
    chosen = np.zeros(len(groups), bool)
    names, sizes = np.unique(groups, return_counts=True)
    if share > 0 and sizes.min() >= 2 * share * len(groups):
        return np.asarray(groups == names[np.abs(sizes - share * len(groups)).argmin()])
    for group in rng.permutation(np.unique(groups)):
        rows = groups == group
        if abs((chosen.sum() + rows.sum()) / len(groups) - share) < abs(chosen.sum() / len(groups) - share):
            chosen |= rows
    return chosen


def _by_group(
    labels: NDArray[np.int64], groups: NDArray[np.int64], scenes: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """(n,) another scene, the same for all windows of a group that show the same one."""
    other = labels.copy()
    for group in np.unique(groups):
        steps = rng.integers(1, len(scenes), len(scenes))
        rows = groups == group
        at = np.searchsorted(scenes, labels[rows])
        other[rows] = scenes[(at + steps[at]) % len(scenes)]
    return other


def _corrupted(windows: WindowSet, chosen: NDArray[np.bool_], rng: np.random.Generator) -> WindowSet:
    """As many of them each: sensors that stand still, a gap of half the window or more, no gravity, tops cut off, a stuttering clock."""
    signals, coverage = windows.signals.copy(), windows.coverage.copy()
    samples = signals.shape[2]
    axes = [at for at, name in enumerate(windows.channels) if name.startswith("acc_")]
    for number, row in enumerate(rng.permutation(np.flatnonzero(chosen))):
        kind = number % 5
        if kind == 3 and not moves(signals[row : row + 1], windows.channels)[0]:
            kind = 4  # at rest nothing reaches the end of a sensor's range
        if kind == 0:
            signals[row] = signals[row, :, :1]
        elif kind == 1:
            length = int(samples * rng.uniform(0.5, 0.9))
            begin = int(rng.integers(0, samples - length + 1))
            signals[row, :, begin : begin + length] = np.nan
            coverage[row] *= 1 - length / samples
        elif kind == 2:
            signals[row, axes] *= rng.uniform(0.0, 0.3)
        elif kind == 3:
            signals[row] = _cut_off(signals[row], rng.uniform(0.1, 0.3))
        else:
            signals[row] = _stuttering(signals[row], windows.rate_hz, rng)
    return replace(windows, signals=signals, coverage=coverage)


def _cut_off(signals: NDArray[np.float32], share: float) -> NDArray[np.float32]:
    """(c, t) signals whose share of largest and of smallest values is beyond the sensor's range."""
    there = ~np.isnan(signals).all(1)
    cut = signals.copy()
    if not there.any():
        return cut
    low, high = np.nanquantile(signals[there], [share, 1 - share], axis=1, keepdims=True)
    cut[there] = np.clip(signals[there], low, high)
    return cut


def _stuttering(signals: NDArray[np.float32], rate_hz: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """(c, t) signals of which every now and then 0.2 to 0.3 s are missing, with a straight line instead, as the lake has it."""
    stuttered, at, samples = signals.copy(), 0, signals.shape[1]
    while at < samples:
        at += int(rate_hz * rng.uniform(0.05, 0.3))
        # Of two grid points there is nothing between: a slow grid has longer stalls.
        end = min(at + max(3, int(rate_hz * rng.uniform(0.2, 0.3))), samples - 1)
        if end - at > 1:
            rise = np.linspace(0, 1, end - at + 1)
            first, last = signals[:, at, None], signals[:, end, None]
            stuttered[:, at : end + 1] = first + (last - first) * rise
        at = end + 1
    return stuttered
