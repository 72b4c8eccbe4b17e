"""How far each label can be believed: a score in [0, 1], higher is cleaner, with its reasons.

Four looks at a window, none by a model that has seen its person:

- *margin*: of the given label over the best other one, by heads fitted without this person (confident learning's self-confidence
  and margin: Northcutt et al., 2021, "Confident learning");
- *neighbours*: the class-balanced vote of the nearest windows of other people in the original model's features;
- *original*: the same margin by the original model as it is, trusted scene by scene as far as it agrees with the heads;
- *physical*: is there a signal at all (coverage, flat lines, gravity's size).

Part of the score is the rank within (scene, person), shrunk to the scene where a person has few windows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax

from training.dataset import WindowSet
from training.filterloss import logit_adjustment
from training.folds import grouped_folds
from training.heads import Head, fit_head
from training.settings import QualitySettings
from training.tracking import Progress, no_progress

Array = NDArray[np.float64]
_GRAVITY = 9.81
_FLAT = 1e-8
"""Variance below which a channel is a flat line: float32 has noise of its own, and every sensor far more."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Quality:
    """Scores of n windows, each (n,) in [0, 1], higher is cleaner."""

    margin: Array
    neighbours: Array
    original: Array
    physical: Array
    score: Array
    trust: dict[str, float]
    """Scene → how far the original model was believed about it."""

    def reasons(self) -> list[str]:
        """For each window, what speaks against its label; empty where nothing does."""
        looks = {
            "other people's models see another scene": self.margin,
            "its neighbours carry other labels": self.neighbours,
            "the original model sees another scene": self.original,
            "the signal is poor": self.physical,
        }
        return ["; ".join(text for text, look in looks.items() if look[at] < 0.5) for at in range(len(self.score))]


def score_quality(
    windows: WindowSet,
    features: NDArray[np.floating],
    head: Head,
    *,
    train: NDArray[np.bool_],
    settings: QualitySettings | None = None,
    seed: int = 0,
    progress: Progress = no_progress,
) -> Quality:
    """Score labelled windows.

    Args:
        windows: n labelled windows.
        features: (n, d) of the original model.
        head: the original's.
        train: (n,) mask of the windows that may be learned from; the others are scored, and teach nothing.
        settings: how.
        seed: of the folds.
        progress: told after each fold.
    """
    settings = settings or QualitySettings()
    labels, groups, scenes = windows.scenes, windows.groups(), len(windows.scene_names)
    judged = _out_of_fold(labels, groups, features, head, train, scenes, settings, seed, progress)
    as_it_is = softmax(head.logits(features), axis=1)
    voted = _votes(labels, groups, features, train, scenes, settings.neighbours)
    margin, original, neighbours = (_margin(p, labels) for p in (judged, as_it_is, voted))
    physical = physical_quality(windows)
    trust = _trust(judged, as_it_is, labels, train, scenes)
    believed = trust[labels]
    raw = (margin + neighbours + believed * original) / (2 + believed) * physical
    ranked = _ranks(raw, labels, groups, settings.shrink)
    score = np.clip((1 - settings.rank_share) * raw + settings.rank_share * ranked, 0.0, 1.0)
    return Quality(
        margin=margin, neighbours=neighbours, original=original, physical=physical, score=score,
        trust=dict(zip(windows.scene_names, map(float, trust), strict=True)),
    )  # fmt: skip


def physical_quality(windows: WindowSet) -> Array:
    """(n,) share of the grid with a signal, less for flat channels and for an acceleration that is not gravity's size."""
    signals = windows.signals
    with np.errstate(invalid="ignore"):
        present: NDArray[np.bool_] = np.asarray(~np.isnan(signals))
        count = np.maximum(present.sum(2), 1)
        mean = np.where(present, signals, 0).sum(2) / count
        spread = np.where(present, signals - mean[..., None], 0) ** 2
    there: NDArray[np.bool_] = np.asarray(present.any(axis=2))
    flat = ((spread.sum(2) / count < _FLAT) & there).sum(1) / np.maximum(there.sum(1), 1)
    quality = np.clip(windows.coverage.astype(np.float64), 0, 1) * (1 - flat)
    axes = [windows.channels.index(name) for name in ("acc_x", "acc_y", "acc_z") if name in windows.channels]
    if len(axes) == 3:
        size = np.sqrt(np.where(present[:, axes], signals[:, axes].astype(np.float64) ** 2, 0).sum(1).mean(1))
        measured = there[:, axes].all(1)
        # Running doubles it and a phone's gain may be off by a tenth; nothing near zero is an accelerometer at work.
        quality = np.where(measured, quality * np.clip(size / (0.7 * _GRAVITY), 0, 1), quality)
    result: Array = quality
    return result


def _out_of_fold(
    labels: NDArray[np.int64],
    groups: NDArray[np.int64],
    features: NDArray[np.floating],
    head: Head,
    train: NDArray[np.bool_],
    scenes: int,
    settings: QualitySettings,
    seed: int,
    progress: Progress,
) -> Array:
    """(n, scenes) probabilities, each by heads that have not seen the window's person."""
    rng = np.random.default_rng(seed)
    total = np.zeros((len(labels), scenes))
    times = np.zeros(len(labels))
    rows = np.flatnonzero(train)
    for repeat in range(settings.repeats):
        fold = np.full(len(labels), -1)
        fold[rows] = grouped_folds(groups[rows], labels[rows], settings.folds, rng=rng)
        for number in range(int(fold.max()) + 1):
            learn = train & (fold != number)
            if not learn.any():
                continue
            weights = np.ones(int(learn.sum()))
            fitted = fit_head(
                features[learn], labels[learn], weights, start=head, pull=settings.pull,
                adjustment=adjustment(labels[learn], weights, scenes),
            )  # fmt: skip
            judge = (fold == number) | ~train
            total[judge] += softmax(fitted.logits(features[judge]), axis=1)
            times[judge] += 1
            progress(repeat * settings.folds + number + 1, settings.repeats * settings.folds, "out of fold")
    return total / np.maximum(times, 1)[:, None]


def adjustment(labels: NDArray[np.int64], weights: NDArray[np.floating], scenes: int) -> NDArray[np.floating]:
    """:func:`training.filterloss.logit_adjustment` of arrays."""
    shift: NDArray[np.floating] = logit_adjustment(
        torch.from_numpy(labels), torch.from_numpy(np.asarray(weights, np.float64)), scenes
    ).numpy()
    return shift


def _votes(
    labels: NDArray[np.int64],
    groups: NDArray[np.int64],
    features: NDArray[np.floating],
    train: NDArray[np.bool_],
    scenes: int,
    neighbours: int,
) -> Array:
    """(n, scenes) shares of the votes of the nearest training windows of other people, each scene's votes counting by its rarity."""
    rows = np.flatnonzero(train)
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    rarity = 1 / np.maximum(np.bincount(labels[rows], minlength=scenes), 1)
    votes = np.full((len(labels), scenes), 1 / scenes)
    for at in range(len(labels)):
        others = rows[groups[rows] != groups[at]]
        if not len(others):
            continue
        near = others[np.argsort(-(unit[others] @ unit[at]), kind="stable")[:neighbours]]
        counted = np.bincount(labels[near], minlength=scenes) * rarity
        votes[at] = counted / counted.sum()
    return votes


def _margin(probabilities: Array, labels: NDArray[np.int64]) -> Array:
    """(n,) of the label over the best other scene, from [-1, 1] to [0, 1]."""
    rows = np.arange(len(labels))
    others = probabilities.copy()
    given = others[rows, labels]
    others[rows, labels] = -1
    margin: Array = (given - others.max(1) + 1) / 2
    return margin


def _trust(judged: Array, as_it_is: Array, labels: NDArray[np.int64], train: NDArray[np.bool_], scenes: int) -> Array:
    """(scenes,) how often, above chance, the original sees what the heads see, among windows labelled so."""
    agree = judged.argmax(1) == as_it_is.argmax(1)
    trust = np.zeros(scenes)
    for scene in range(scenes):
        rows = train & (labels == scene)
        share = float(agree[rows].mean()) if rows.any() else 0.0
        trust[scene] = max(0.0, (share - 1 / scenes) / (1 - 1 / scenes))
    return trust


def _ranks(raw: Array, labels: NDArray[np.int64], groups: NDArray[np.int64], shrink: int) -> Array:
    """(n,) rank in [0, 1] within (scene, person), shrunk to the rank within the scene where a person has few windows."""
    ranks = np.empty(len(raw))
    for scene in np.unique(labels):
        in_scene = np.flatnonzero(labels == scene)
        ranks[in_scene] = _rank(raw[in_scene])
        for group in np.unique(groups[in_scene]):
            rows = in_scene[groups[in_scene] == group]
            own = len(rows) / (len(rows) + shrink)
            ranks[rows] = own * _rank(raw[rows]) + (1 - own) * ranks[rows]
    return ranks


def _rank(values: Array) -> Array:
    order = np.empty(len(values))
    order[np.argsort(values, kind="stable")] = np.arange(len(values))
    return (order + 0.5) / len(values)
