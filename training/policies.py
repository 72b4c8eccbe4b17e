"""From quality to weights: FilterLoss's policies behind one interface, and the conventional ones beside them.

``tiers``: k tiers, a weight each, chosen by cross-validation over people (as published). ``per_sample``: the probability that a label is
right, to a power that people left out choose. ``learned``: the map from that probability to the weight, its two parameters found by
gradient on people left out, or on those of their labels that are verified, where there are enough (:mod:`training.learned`).
``auto``: equal weights where hardly a label is doubted; else the probability itself, unless the learned map or equal weights do better
on people left out than chance would have it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from training.arm import Weights
from training.asked import as_they_come
from training.belief import label_runs, second_opinion
from training.choosing import People
from training.dataset import WindowSet
from training.errors import SettingsError
from training.folds import grouped_folds
from training.heads import Head, HeadProblem
from training.learned import learn_map
from training.quality import Quality, adjustment
from training.settings import QualitySettings
from training.weights import choose_weights, floored, held_out_logits, tiers_of, weighted_balanced_accuracy

Array = NDArray[np.float64]
_POWERS = (1.0, 0.5, 2.0, 4.0)
"""Of the belief; 1 first: with equal results, the weight is the probability itself."""
_CLEAN, _CLEAN_PEOPLE, _FAIR = 5, 2, 0.5
"""Verified windows of every scene, and people who have them, with which they alone judge weights; what each window must be worth."""
_HARDLY = 0.08
"""Doubt, a mean over the scenes, below which next to nothing is there to be held back: what is doubted then is hard as often as wrong."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Labelled:
    """n training windows, as a policy sees them."""

    features: NDArray[np.floating]
    """(n, d) of the original model."""
    labels: NDArray[np.int64]
    """(n,) as given."""
    groups: NDArray[np.int64]
    """(n,) their people."""
    score: Array
    """(n,) quality."""
    worth: Array
    """(n,) the belief in a label, less where the signal is poor (:meth:`training.quality.Quality.worth`)."""
    head: Head
    """The original's."""
    signal: Array | None = None
    """(n,) what its signal leaves of the belief in a label; None, as the next two: it is not known."""
    mixed: Array | None = None
    """(n, scenes) probabilities that the judges of labels see together."""
    runs: NDArray[np.int64] | None = None
    """(n,) what was labelled together."""
    verified: NDArray[np.bool_] | None = None
    """(n,) where the label is known to be right; None: nowhere."""
    wrong: NDArray[np.bool_] | None = None
    """(n,) where the label is known to be wrong: for the oracle alone."""

    @classmethod
    def of(
        cls,
        windows: WindowSet,
        features: NDArray[np.floating],
        quality: Quality,
        head: Head,
        *,
        rows: NDArray[np.bool_] | None = None,
        wrong: NDArray[np.bool_] | None = None,
    ) -> Labelled:
        """A training set out of windows that were scored.

        Args:
            windows: n, labelled.
            features: (n, d) of the original model.
            quality: of all n.
            head: the original's.
            rows: (n,) mask of the training set; None: all.
            wrong: (n,) where the label is known to be wrong, if it is.
        """
        rows = np.ones(len(windows), bool) if rows is None else rows
        return cls(
            features=features[rows], labels=windows.scenes[rows], groups=windows.groups()[rows], score=quality.score[rows],
            worth=quality.worth(windows.scenes, rows), head=head, signal=quality.signal(windows.scenes, rows),
            mixed=quality.mixed[rows], runs=label_runs(windows)[rows],
            verified=None if windows.verified is None else windows.verified[rows], wrong=None if wrong is None else wrong[rows],
        )  # fmt: skip

    def some(self, rows: NDArray[np.int64]) -> Labelled:
        """These windows only."""
        arrays = {
            each.name: getattr(self, each.name)[rows]
            for each in fields(self)
            if each.name != "head" and getattr(self, each.name) is not None
        }
        return replace(self, **arrays)

    def seen_by(
        self, rows: NDArray[np.int64], logits: NDArray[np.floating], settings: QualitySettings
    ) -> tuple[Labelled, float]:
        """The same windows, some of which networks have looked at that have not seen their people; and how far these are trusted.

        Args:
            rows: (m,) which.
            logits: (m, scenes) of theirs.
            settings: how labels are believed.

        Raises:
            SettingsError: see :meth:`looked_at`.
        """
        mixed, runs, signal = self.looked_at()
        belief, trust = second_opinion(
            mixed, logits, rows, self.labels, runs, novelty=settings.novelty, verified=self.verified
        )
        return replace(self, worth=belief * signal), trust

    def looked_at(self) -> tuple[Array, NDArray[np.int64], Array]:
        """What a second look goes by: what the judges have seen, what was labelled together, and what signals leave of a belief.

        Raises:
            SettingsError: it was not kept.
        """
        if self.mixed is None or self.runs is None or self.signal is None:
            msg = "A second look needs what the judges of labels have seen: make the training set by Labelled.of."
            raise SettingsError(msg)
        return self.mixed, self.runs, self.signal


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Weighed:
    """What came of it."""

    weights: Array
    """(n,) not negative."""
    believed: Array
    """(n,) how much a window counts when people left out choose between models."""
    details: dict[str, Any]
    """What was chosen, and why."""


def weigh(policy: Weights, data: Labelled, settings: QualitySettings, *, seed: int) -> Weighed:
    """Weigh the windows of a training set; of very many, FilterLoss's policies are chosen by some (:mod:`training.asked`).

    Raises:
        SettingsError: the oracle is asked of windows of which nobody knows which are wrong.
    """
    if policy in _CONVENTIONAL:
        return _CONVENTIONAL[policy](data, settings, seed)
    asked = data.some(as_they_come(data.labels, seed, first=data.verified))
    return _FILTERLOSS[policy](data, asked, settings, seed)


def _equal(data: Labelled, settings: QualitySettings, seed: int) -> Weighed:
    del settings, seed
    ones = np.ones(len(data.labels))
    return Weighed(weights=ones, believed=ones, details={})


def _balanced(data: Labelled, settings: QualitySettings, seed: int) -> Weighed:
    del settings, seed
    counts = np.bincount(data.labels, minlength=len(data.head.bias))
    ones = np.ones(len(data.labels))
    return Weighed(weights=1.0 / counts[data.labels], believed=ones, details={})


def _pruned(data: Labelled, settings: QualitySettings, seed: int) -> Weighed:
    from cleanlab.filter import find_label_issues  # noqa: PLC0415  (where arms are pruned)

    fold = grouped_folds(data.groups, data.labels, settings.folds, rng=np.random.default_rng(seed))
    ones = np.ones(len(data.labels))
    logits = held_out_logits(
        data.features, data.labels, ones, fold, head=data.head, pull=max(settings.pulls), adjust=False
    )
    present, labels = np.unique(data.labels, return_inverse=True)
    issues = (
        find_label_issues(labels, softmax(logits[:, present], axis=1), n_jobs=1)
        if len(present) > 1
        else np.zeros(len(labels), bool)
    )
    weights = np.where(issues, 0.0, 1.0)
    if not weights.any():
        weights = np.ones(len(labels))
    return Weighed(weights=weights, believed=weights, details={"pruned": int(issues.sum())})


def _oracle(data: Labelled, settings: QualitySettings, seed: int) -> Weighed:
    del settings, seed
    if data.wrong is None:
        msg = "The oracle needs windows whose wrong labels are known: it is for experiments with planted ones."
        raise SettingsError(msg)
    weights = np.where(data.wrong, 0.0, 1.0)
    return Weighed(weights=weights, believed=weights, details={"dropped": int(data.wrong.sum())})


def _tiers(data: Labelled, asked: Labelled, settings: QualitySettings, seed: int) -> Weighed:
    chosen = choose_weights(
        asked.features,
        asked.labels,
        asked.groups,
        asked.score,
        asked.worth,
        head=data.head,
        settings=settings,
        seed=seed,
    )
    weights = floored(chosen.of(tiers_of(data.score, settings.thresholds)), data.labels, settings.floor)
    return Weighed(
        weights=weights, believed=data.worth, details={"tier_weights": list(chosen.weights), "tried": chosen.tried}
    )


def _per_sample(data: Labelled, asked: Labelled, settings: QualitySettings, seed: int) -> Weighed:
    fold = grouped_folds(asked.groups, asked.labels, settings.folds, rng=np.random.default_rng(seed))
    values = {power: _value(asked, _to_the(power, asked, settings), fold, settings) for power in _POWERS}
    best = max(_POWERS, key=lambda power: round(values[power], 9))
    return Weighed(weights=_to_the(best, data, settings), believed=data.worth, details={"power": best})


def _to_the(power: float, data: Labelled, settings: QualitySettings) -> Array:
    """(n,) weights: the belief to a power."""
    return floored(data.worth**power, data.labels, settings.floor)


def _learned(data: Labelled, asked: Labelled, settings: QualitySettings, seed: int) -> Weighed:
    fold = grouped_folds(asked.groups, asked.labels, settings.folds, rng=np.random.default_rng(seed))
    clean = _clean_fold(asked)
    found = learn_map(
        asked.features, asked.labels, asked.worth, fold, clean=clean, head=data.head, pull=min(settings.pulls),
        floor=settings.floor,
    )  # fmt: skip
    return Weighed(
        weights=floored(found.of(data.worth), data.labels, settings.floor), believed=data.worth,
        details={"slope": found.slope, "shift": found.shift, **_by_whom(clean)},
    )  # fmt: skip


def _clean_fold(data: Labelled) -> Array | None:
    """(n,) how much each window counts where verified ones alone judge; None where :func:`clean_fold_lacks` something."""
    if data.verified is None or clean_fold_lacks(data):
        return None
    return np.where(data.verified & (data.worth >= _FAIR), data.worth, 0.0)


def clean_fold_lacks(data: Labelled) -> dict[int, tuple[int, int]]:
    """Scene → how many verified windows, and people who have some, are missing there for them to judge weights alone; empty if none.

    One whose signal is poor for its scene is no example of it, and does not count. Without a fold of its own, a person judges nobody.
    """
    clean = np.zeros(len(data.labels), bool) if data.verified is None else data.verified & (data.worth >= _FAIR)
    lacks = {}
    for scene in np.unique(data.labels):
        mine = clean & (data.labels == scene)
        people = len(np.unique(data.groups[mine]))
        missing = (max(0, _CLEAN - int(mine.sum())), max(0, _CLEAN_PEOPLE - people))
        if any(missing):
            lacks[int(scene)] = missing
    return lacks


def _learned_left_out(data: Labelled, fold: NDArray[np.int64], settings: QualitySettings) -> NDArray[np.int64]:
    """(n,) scenes, in the eyes of heads that have not seen the person, nor has the map of their weights."""
    pull, scenes = min(settings.pulls), np.empty(len(data.labels), np.int64)
    for number in range(int(fold.max()) + 1):
        learn, judge = fold != number, fold == number
        labels, features, worth = data.labels[learn], data.features[learn], data.worth[learn]
        inner = np.unique(fold[learn], return_inverse=True)[1]
        clean = _clean_fold(data.some(np.flatnonzero(learn)))
        found = learn_map(features, labels, worth, inner, clean=clean, head=data.head, pull=pull, floor=settings.floor)
        weights = floored(found.of(worth), labels, settings.floor)
        shift = adjustment(labels, weights, len(data.head.bias))
        problem = HeadProblem.of(features, labels, weights, start=data.head, pull=pull, adjustment=shift)
        scenes[judge] = problem.head(problem.optimum()).logits(data.features[judge]).argmax(1)
    return scenes


def _auto(data: Labelled, asked: Labelled, settings: QualitySettings, seed: int) -> Weighed:
    equal = np.ones(len(data.labels))
    # Scenes count alike: of a rare one all labels may be wrong. And what is verified says nothing of the others.
    doubtful = np.ones(len(data.labels), bool) if data.verified is None else ~data.verified
    labels, worth = data.labels[doubtful], data.worth[doubtful]
    doubt = float(np.mean([1 - worth[labels == scene].mean() for scene in np.unique(labels)])) if len(labels) else 0.0
    if doubt < _HARDLY:
        # Nor is a window held back where people left out judge: all is as without weights.
        why = f"hardly a window is doubted ({doubt:.1%}, a mean over the scenes)"
        return Weighed(weights=equal, believed=equal, details={"policy": "equal", "why": why})
    fold = grouped_folds(asked.groups, asked.labels, settings.folds, rng=np.random.default_rng(seed))
    # Nothing about it is chosen, so nothing by chance.
    by_belief = Weighed(weights=_to_the(1.0, data, settings), believed=data.worth, details={"power": 1.0})
    if not fold.max():
        why = "one person's labels: nobody is left out who could judge"
        return replace(by_belief, details={**by_belief.details, "policy": "per_sample", "why": why})
    clean = _clean_fold(asked)
    people = People(asked.labels, asked.groups, asked.worth if clean is None else clean, seed=seed)
    # The simplest first: of those that are as good as the best, it is taken. Tiers are not among them: see docs/choices.md.
    options, scenes = {"per_sample": by_belief}, [_left_out(asked, _to_the(1.0, asked, settings), fold, settings)]
    if fold.max() > 1:
        options["learned"] = _learned(data, asked, settings, seed)
        scenes.append(_learned_left_out(asked, fold, settings))
    options["equal"] = Weighed(weights=equal, believed=data.worth, details={})
    scenes.append(_left_out(asked, np.ones(len(asked.labels)), fold, settings))
    judged = [people.judge(each) for each in scenes]
    policy = next(name for name, good in zip(options, people.as_good_as_the_best(judged), strict=True) if good)
    names = ["equal weights" if name == "equal" else name for name in options]
    told = ", ".join(f"{name} {values[0]:.3f}" for name, values in zip(names, judged, strict=True))
    by = "belief" if clean is None else "verified labels"
    why = f"the simplest that is as good as the best; balanced accuracy among people left out, by {by}: {told}"
    return Weighed(
        weights=options[policy].weights, believed=data.worth,
        details={**options[policy].details, **_by_whom(clean), "policy": policy, "why": why},
    )  # fmt: skip


def _by_whom(clean: Array | None) -> dict[str, int]:
    """How many verified windows have judged, if they have."""
    return {} if clean is None else {"verified": int((clean > 0).sum())}


def _value(data: Labelled, weights: Array, fold: NDArray[np.int64], settings: QualitySettings) -> float:
    """Balanced accuracy, windows counting by the belief in them, of heads that have not seen the person."""
    return weighted_balanced_accuracy(data.labels, _left_out(data, weights, fold, settings), data.worth)


def _left_out(data: Labelled, weights: Array, fold: NDArray[np.int64], settings: QualitySettings) -> NDArray[np.int64]:
    """(n,) scenes, in the eyes of heads that have not seen the person (beliefs that weigh the others have: see docs/choices.md)."""
    pull = min(settings.pulls)
    logits = held_out_logits(data.features, data.labels, weights, fold, head=data.head, pull=pull, adjust=True)
    scenes: NDArray[np.int64] = logits.argmax(1)
    return scenes


_CONVENTIONAL: dict[Weights, Callable[[Labelled, QualitySettings, int], Weighed]] = {
    "equal": _equal,
    "balanced": _balanced,
    "pruned": _pruned,
    "oracle": _oracle,
}
_FILTERLOSS: dict[Weights, Callable[[Labelled, Labelled, QualitySettings, int], Weighed]] = {
    "tiers": _tiers,
    "per_sample": _per_sample,
    "learned": _learned,
    "auto": _auto,
}
"""Of all windows, by those that are asked."""
