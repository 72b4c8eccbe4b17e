"""How few, how lopsided and how wrong labels are: made of windows whose labels are right, so that it is known which are wrong."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training import rules
from training.dataset import WindowSet


@dataclass(frozen=True, kw_only=True, slots=True)
class Regime:
    """What is left of the labels to train on."""

    labels: float = 1.0
    """Share of the labelled windows that keep their label, above 0."""
    imbalance: float = 1.0
    """How many times as many windows the commonest scene has as the rarest; 1 leaves the shares as they are."""
    wrong: float = 0.0
    """Share of the labels, 0 to 1, that name another scene, any with the same probability."""

    def __post_init__(self) -> None:
        rules.check(
            "regime", self, labels=rules.FLOOR, wrong=rules.SHARE,
            imbalance=rules.Rule(holds=lambda value: 1 <= value < np.inf, allowed="a number from 1 up"),
        )  # fmt: skip


REGIMES = {
    "every-label": Regime(),
    "few": Regime(labels=0.1),
    "few-imbalanced": Regime(labels=0.1, imbalance=20),
    "hard": Regime(labels=0.1, imbalance=20, wrong=0.2),
}
"""From easy to hard; 'few' is a tenth."""
_LEAST = 3
"""Windows that the rarest scene keeps: with fewer, nothing could be learned of it, and nothing compared."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Planted:
    """n training windows, with their labels as they would be said."""

    rows: NDArray[np.int64]
    """(n,) which of the windows given, ascending."""
    labels: NDArray[np.int64]
    """(n,) as said."""
    wrong: NDArray[np.bool_]
    """(n,) where that is not the truth; for the oracle, and for nobody else."""


def plant(windows: WindowSet, rows: NDArray[np.int64], regime: Regime, *, seed: int) -> Planted:
    """Take labels away, lopsidedly, and make some of the rest wrong.

    Args:
        windows: labelled rightly.
        rows: (m,) which of them may be trained on.
        regime: how.
        seed: which windows; also which scenes are common. The regimes of one seed that keep as many labels keep the same.
    """
    rng = np.random.default_rng(seed)
    labels = windows.scenes[rows]
    scenes, counts = np.unique(labels, return_counts=True)
    budget = max(round(regime.labels * len(rows)), _LEAST * len(scenes))
    wanted = _sizes(counts, budget, regime.imbalance, rng)
    chosen = [rng.permutation(np.flatnonzero(labels == scene))[:n] for scene, n in zip(scenes, wanted, strict=True)]
    kept = np.sort(np.concatenate(chosen))
    said = labels[kept].copy()
    wrong = np.zeros(len(kept), bool)
    if len(scenes) > 1:
        wrong[rng.permutation(len(kept))[: round(regime.wrong * len(kept))]] = True
        steps = rng.integers(1, len(scenes), size=len(kept))
        at = np.searchsorted(scenes, said)
        said = np.where(wrong, scenes[(at + steps) % len(scenes)], said)
    return Planted(rows=rows[kept], labels=said, wrong=wrong)


def relabelled(windows: WindowSet, planted: Planted) -> WindowSet:
    """The training windows as they would come."""
    return dataclasses.replace(windows.select(planted.rows), scenes=planted.labels, verified=None)


def _sizes(counts: NDArray[np.int64], budget: int, imbalance: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """How many windows of each scene to keep: in geometric steps from the commonest to the rarest, no more than there are."""
    if imbalance == 1:
        even = np.round(counts * budget / counts.sum()).astype(np.int64)
        return np.asarray(np.minimum(counts, np.maximum(_LEAST, even)), np.int64)
    order = rng.permutation(len(counts))
    share = imbalance ** (-order / max(len(counts) - 1, 1))
    # The largest scale at which no scene needs more windows than it has and all together stay within the budget.
    scale = min(budget / share.sum(), float((counts / share).min()))
    sizes = np.round(scale * share).astype(np.int64)
    return np.asarray(np.minimum(counts, np.maximum(_LEAST, sizes)), np.int64)
