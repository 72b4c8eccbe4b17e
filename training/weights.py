"""From score to tier to weight, the weights chosen by cross-validation over people.

As published: k broad tiers, a weight each, chosen on the data at hand. What is tried is fitted as a head on cached features,
which takes a fraction of a second; the network is then trained once with what was chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.folds import grouped_folds
from training.heads import Head, HeadProblem
from training.quality import adjustment
from training.settings import QualitySettings

_KEPT = 0.25
"""Of its weight, a scene keeps this share at least: judges who do not know it would have it unlearned."""
_CANDIDATES = (1.0, 0.5, 0.2, 0.05)
"""Weights a tier may have, relative to the one above it."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TierWeights:
    """A weight for each tier, the least trusted first."""

    weights: tuple[float, ...]
    validation: float
    """Balanced accuracy, windows counting by the belief in their labels, that chose them."""
    tried: int

    def of(self, tiers: NDArray[np.int64]) -> NDArray[np.float64]:
        """(n,) weight of each window."""
        return np.asarray(self.weights, np.float64)[tiers]


def tiers_of(score: NDArray[np.floating], thresholds: Sequence[float]) -> NDArray[np.int64]:
    """(n,) tier of each score: 0 below the first threshold, up to the number of thresholds."""
    return np.searchsorted(np.asarray(thresholds), score, side="right").astype(np.int64)


def effective_size(weights: NDArray[np.floating]) -> float:
    """How many equally weighted windows these are worth: (Σw)² / Σw² (Kish, 1965)."""
    squares = float((weights**2).sum())
    return float(weights.sum()) ** 2 / squares if squares > 0 else 0.0


def floored(weights: NDArray[np.floating], labels: NDArray[np.int64], floor: float) -> NDArray[np.float64]:
    """(n,) weights, none below the floor; where a scene has lost more than it may, its windows regain the same part of their loss."""
    found = np.maximum(np.asarray(weights, np.float64), floor)
    for scene in np.unique(labels):
        mine = labels == scene
        mean = found[mine].mean()
        if mean < _KEPT:
            found[mine] += (1 - found[mine]) * (_KEPT - mean) / (1 - mean)
    return found


def through_floor(
    weights: NDArray[np.floating], labels: NDArray[np.int64], slopes: NDArray[np.floating]
) -> NDArray[np.float64]:
    """(n,) slopes of what has these slopes by ``floored(weights, …)``, by the weights, none of which is below the floor."""
    found = np.asarray(slopes, np.float64).copy()
    for scene in np.unique(labels):
        mine = labels == scene
        mean = weights[mine].mean()
        if mean < _KEPT:
            regained, by_mean = (_KEPT - mean) / (1 - mean), (_KEPT - 1) / (1 - mean) ** 2
            found[mine] = (1 - regained) * slopes[mine] + by_mean * (slopes[mine] * (1 - weights[mine])).mean()
    return found


def choose_weights(
    features: NDArray[np.floating],
    labels: NDArray[np.int64],
    groups: NDArray[np.int64],
    score: NDArray[np.floating],
    belief: NDArray[np.floating],
    *,
    head: Head,
    settings: QualitySettings,
    seed: int = 0,
) -> TierWeights:
    """Try non-increasing weights from the most trusted tier down, and keep what does best on people left out.

    A window counts in the validation by the belief in its label: what is not believed cannot judge, and what is merely hard must.

    Args:
        features: (n, d) of the training windows.
        labels: (n,) their labels.
        groups: (n,) their people.
        score: (n,) their quality.
        belief: (n,) probabilities that the labels are right.
        head: the original's.
        settings: thresholds, floor, folds, pull.
        seed: of the folds.
    """
    tiers, pull = tiers_of(score, settings.thresholds), min(settings.pulls)
    fold = grouped_folds(groups, labels, settings.folds, rng=np.random.default_rng(seed))
    options = _ladders(len(settings.thresholds) + 1, settings.floor)
    predicted, heads = [], dict[int, Head]()
    for ladder in options:
        weights = floored(np.asarray(ladder)[tiers], labels, settings.floor)
        logits = held_out_logits(features, labels, weights, fold, head=head, pull=pull, adjust=True, heads=heads)
        predicted.append(logits.argmax(1))

    values = [weighted_balanced_accuracy(labels, each, belief) for each in predicted]
    # The mildest of equals: they come first.
    at = next(number for number, each in enumerate(values) if each >= max(values) - 1e-9)
    return TierWeights(weights=options[at], validation=values[at], tried=len(options))


def held_out_logits(
    features: NDArray[np.floating],
    labels: NDArray[np.int64],
    weights: NDArray[np.floating],
    fold: NDArray[np.int64],
    *,
    head: Head,
    pull: float,
    adjust: bool,
    heads: dict[int, Head] | None = None,
) -> NDArray[np.float64]:
    """(n, scenes) logits of heads fitted without the window's fold, to their optimum; with one fold only, of one fitted with all.

    Args:
        features: (n, d) of the training windows.
        labels: (n,) their labels.
        weights: (n,) of the loss.
        fold: (n,) of each window.
        head: the original's.
        pull: of the heads, see :class:`training.heads.HeadProblem`.
        adjust: whether to correct for imbalance by logit adjustment.
        heads: fold → a head of weights that are like these, where the search begins; the new ones are left in it.
    """
    scenes, heads = len(head.bias), {} if heads is None else heads
    logits = np.empty((len(labels), scenes))
    for number in range(int(fold.max()) + 1):
        learn = fold != number if fold.max() else fold == number
        shift = adjustment(labels[learn], weights[learn], scenes) if adjust else None
        problem = HeadProblem.of(
            features[learn], labels[learn], weights[learn], start=head, pull=pull, adjustment=shift
        )
        heads[number] = problem.head(problem.optimum(heads.get(number)))
        logits[fold == number] = heads[number].logits(features[fold == number])
    return logits


def weighted_balanced_accuracy(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], weights: NDArray[np.floating]
) -> float:
    """Mean over the scenes of the weighted share of their windows that are right."""
    shares = []
    for scene in np.unique(labels):
        rows = labels == scene
        if weights[rows].sum() > 0:
            shares.append(float((weights[rows] * (predicted[rows] == scene)).sum() / weights[rows].sum()))
    return float(np.mean(shares)) if shares else 0.0


def _ladders(tiers: int, floor: float) -> list[tuple[float, ...]]:
    """Weights from the least trusted tier up to 1; the mildest first, so that a tie is settled by doing less."""
    ladders: list[tuple[float, ...]] = [(1.0,)]
    for _ in range(tiers - 1):
        ladders = [(max(floor, ladder[0] * step), *ladder) for ladder in ladders for step in _CANDIDATES]
    return sorted(set(ladders), key=lambda ladder: (-sum(ladder), ladder))
