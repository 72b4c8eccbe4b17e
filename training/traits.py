"""What windows' signals are like, in numbers that no network has learned, and trees that tell scenes by them.

Heads, neighbours and the original see the new phones through the original's eyes: what it confuses there, they confuse, however many
labels they learn from. How strong a signal is at which frequencies tells much of that apart (walking from climbing stairs, say), and
needs few labels to learn from: the oldest features of the field (Bao & Intille, 2004, "Activity recognition from user-annotated
acceleration data"), and trees at random, which need no tuning (Geurts et al., 2006, "Extremely randomized trees").
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from training.spectrogram import triads

Array = NDArray[np.float64]
_BANDS = 12
"""Of frequencies, each about as many times as wide as the one below it, but a frequency wide at least."""
_NOTHING = 1e-6
"""Power, in the channel's unit squared, and standard deviation, in its unit, below which nothing is told."""
_AT_ONCE = 1 << 22
"""Values that are looked at once: it takes several copies of them, some 200 MiB."""
_TREES, _LEAF = 100, 3
"""Trees, and windows that a leaf has at least, however much they weigh: a rare scene's label outweighs others of its leaf."""


def traits(signals: NDArray[np.floating], channels: Sequence[str]) -> NDArray[np.float32]:
    """(n, k) of (n, channels, samples) signals, NaN where there is no sample.

    Of each channel, and of the norm of each triad of axes, which does not depend on how the phone is held: its mean, the logarithm of its
    standard deviation and of its power in :data:`_BANDS` bands of frequencies or fewer, skewness and kurtosis. A missing sample counts for
    nothing; a channel that is missing has a mean of zero and no power.
    """
    at_once = max(1, _AT_ONCE // max(1, signals[:1].size))
    first = _traits(signals[:at_once], channels)
    found = np.empty((len(signals), first.shape[1]), np.float32)
    found[: len(first)] = first
    for at in range(at_once, len(signals), at_once):
        found[at : at + at_once] = _traits(signals[at : at + at_once], channels)
    return found


def _traits(signals: NDArray[np.floating], channels: Sequence[str]) -> NDArray[np.float32]:
    norms = [
        np.sqrt(np.square(signals[:, list(axes)].astype(np.float64)).sum(1, keepdims=True))
        for axes in triads(channels).values()
    ]
    values = np.concatenate([signals.astype(np.float64), *norms], axis=1)
    there = ~np.isnan(values)
    count = np.maximum(there.sum(2, keepdims=True), 1)
    mean = np.where(there, values, 0).sum(2, keepdims=True) / count
    values = np.where(there, values - mean, 0)
    spread = np.sqrt((values * values).sum(2, keepdims=True) / count)
    shape = values / (spread + _NOTHING)
    squares = shape * shape  # pow() takes ten times as long
    skewness, kurtosis = ((squares * each).sum(2, keepdims=True) / count for each in (shape, squares))
    window = np.hanning(values.shape[2] + 2)[1:-1]
    spectrum = np.fft.rfft(values * window, axis=2)
    # Of the samples there are: phones drop some while people walk, which is to be no sign of walking.
    power = (spectrum.real**2 + spectrum.imag**2) / np.maximum(
        (window * window * there).sum(2, keepdims=True), _NOTHING
    )
    edges = np.unique(np.round(np.geomspace(1, power.shape[2], _BANDS + 1)).astype(int))
    bands = np.add.reduceat(power[:, :, : edges[-1]], edges[:-1], axis=2) if len(edges) > 1 else power[:, :, :0]
    told = np.concatenate([mean, np.log(spread + _NOTHING), np.log(bands + _NOTHING), skewness, kurtosis], axis=2)
    most = np.finfo(np.float32).max
    found: NDArray[np.float32] = np.clip(told, -most, most).astype(np.float32)
    return found.reshape(len(told), told.shape[1] * told.shape[2])


def told_by_trees(
    learn: NDArray[np.float32],
    labels: NDArray[np.int64],
    weights: Array,
    judge: NDArray[np.float32],
    scenes: int,
    *,
    seed: int,
) -> Array:
    """(j, scenes) probabilities; all windows of a scene together teach as much as those of another, and who saw none of a scene sees none.

    Args:
        learn: (n, k) traits.
        labels: (n,) their scenes, some of them wrong.
        weights: (n,) how much a window teaches.
        judge: (j, k) traits of others.
        scenes: how many there are.
        seed: of the trees.
    """
    from sklearn.ensemble import ExtraTreesClassifier  # noqa: PLC0415  (takes a second)

    common = np.bincount(labels, weights=weights, minlength=scenes)
    trees = ExtraTreesClassifier(_TREES, min_samples_leaf=_LEAF, random_state=seed)
    trees.fit(learn, labels, sample_weight=weights / common[labels])
    found = np.zeros((len(judge), scenes))
    found[:, trees.classes_] = trees.predict_proba(judge)
    return found
