"""Who is held out: splits that keep the windows of one person on one side.

Windows overlap, and a person's windows resemble each other: a model tried on people it was trained on looks better than it is.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.asked import as_many_of_each
from training.dataset import UNLABELLED, WindowSet
from training.errors import DataError, MissingScene, TooFewLabels, TooFewSubjects
from training.tracking import Progress

_DRAWS = 400


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Split:
    """Labelled windows in two parts; unlabelled ones are in neither."""

    train: NDArray[np.bool_]
    """(n,) mask of what may be learned from."""
    holdout: NDArray[np.bool_]
    """(n,) mask of what the result is measured on, and nothing else."""
    holdout_subjects: tuple[str, ...]
    """Who is in the holdout."""


def split_by_subject(
    windows: WindowSet,
    *,
    share: float,
    subjects: Sequence[str] = (),
    spared: Sequence[str] = (),
    seed: int = 0,
    scenes: Sequence[str] | None = None,
    min_labelled: int = 0,
    min_train_subjects: int = 1,
) -> Split:
    """Hold out some people.

    Args:
        windows: labelled and unlabelled windows.
        share: part of the people to hold out, at least one. Among many draws, the one whose scenes are shared out most evenly is taken;
            where so many people cannot leave every scene on both sides, the nearest number that can.
        subjects: hold out just these instead.
        spared: people who are not drawn.
        seed: which draw.
        scenes: the scenes that must be on both sides; those of ``windows`` if None.
        min_labelled: how many labelled windows there must be in all.
        min_train_subjects: how many people must be left to train on.

    Raises:
        TooFewLabels: fewer labelled windows than ``min_labelled``.
        TooFewSubjects: nobody would be left on one of the sides, or fewer may be drawn than are to be held out.
        MissingScene: a scene is not on both sides, however the people are split.
        DataError: a subject to be held out has no labelled window.
    """
    labelled = windows.scenes != UNLABELLED
    required = tuple(windows.scene_names if scenes is None else scenes)
    summary = _summary(windows)
    if labelled.sum() < max(min_labelled, 1):
        msg = f"Too few labels: {summary}; at least {max(min_labelled, 1)} labelled windows are needed ([data] min_labelled)."
        raise TooFewLabels(msg)
    absent = [scene for scene in required if not windows.counts().get(scene)]
    if absent:
        msg = f"No labelled window of {', '.join(absent)}: {summary}. Label some, or name the scenes that there are in [data] scenes."
        raise MissingScene(msg)
    groups = windows.groups()
    people = np.unique(groups[labelled])
    if len(people) < min_train_subjects + 1:
        msg = f"Too few people: {summary}; at least {min_train_subjects + 1} with labels are needed: people are held out whole."
        raise TooFewSubjects(msg)
    wanted = [windows.scene_names.index(scene) for scene in required]
    if subjects:
        held = _named(windows, labelled, groups, subjects)
    else:
        drawn = people[~np.isin(people, groups[labelled & np.isin(windows.subjects, list(spared))])]
        held = _drawn(windows, labelled, groups, people, drawn, wanted, share, min_train_subjects, seed)
    holdout = labelled & np.isin(groups, held)
    train = labelled & ~holdout
    if len(np.unique(groups[train])) < min_train_subjects:
        msg = (
            f"Too few people: {summary}; with {', '.join(subjects)} held out, fewer than {min_train_subjects} are left to train on. "
            "Name fewer in [data] holdout_subjects."
        )
        raise TooFewSubjects(msg)
    for side, mask in (("train on", train), ("hold out", holdout)):
        missing = [windows.scene_names[scene] for scene in wanted if not (windows.scenes[mask] == scene).any()]
        if missing:
            msg = (
                f"No labelled window of {', '.join(missing)} among the people to {side}: {summary}. "
                f"Label that scene for more people, {'name others in [data] holdout_subjects, ' if subjects else ''}or leave it out of "
                "[data] scenes."
            )
            raise MissingScene(msg)
    names = tuple(sorted(set(windows.subjects[holdout].tolist())))
    return Split(train=train, holdout=holdout, holdout_subjects=names)


def grouped_folds(
    groups: NDArray[np.int64], labels: NDArray[np.int64], folds: int, *, rng: np.random.Generator
) -> NDArray[np.int64]:
    """A fold for each row, the same for all rows of a group, with each label shared out as evenly as greed allows.

    Groups go, the most lopsided first, where they leave the shares of the labels most even (the rule of scikit-learn's
    ``StratifiedGroupKFold``, which warns where a rare label has fewer rows than there are folds; here that is ordinary).

    Args:
        groups: (n,) who belongs together.
        labels: (n,) what to share out.
        folds: how many; fewer if there are fewer groups.
        rng: breaks ties.

    Returns:
        (n,) numbers below ``folds``.
    """
    names, group = np.unique(groups, return_inverse=True)
    folds = min(folds, len(names))
    kinds = np.unique(labels, return_inverse=True)[1]
    counts = np.zeros((len(names), kinds.max() + 1))
    np.add.at(counts, (group, kinds), 1)
    shares = counts / counts.sum(0)
    order = rng.permutation(len(names))
    order = order[np.argsort(-shares[order].std(1), kind="stable")]
    totals = np.zeros((folds, shares.shape[1]))
    fold = np.empty(len(names), np.int64)
    for at in order:
        spread = [
            np.std(np.where((np.arange(folds) == f)[:, None], totals + shares[at], totals), axis=0).mean()
            for f in range(folds)
        ]
        best = min(range(folds), key=lambda f: (round(float(spread[f]), 12), totals[f].sum()))
        fold[at] = best
        totals[best] += shares[at]
    return fold[group]


def _summary(windows: WindowSet) -> str:
    labelled = windows.scenes != UNLABELLED
    counts = ", ".join(f"{name} {n}" for name, n in windows.counts().items())
    return f"{labelled.sum()} labelled windows ({counts}) of {len(set(windows.subjects[labelled].tolist()))} people"


def _named(
    windows: WindowSet, labelled: NDArray[np.bool_], groups: NDArray[np.int64], subjects: Sequence[str]
) -> NDArray[np.int64]:
    known = sorted(set(windows.subjects[labelled].tolist()))
    for subject in subjects:
        if subject not in known:
            near = difflib.get_close_matches(subject, known, n=1)
            hint = (
                f"did you mean {near[0]!r}?"
                if near
                else f"{', '.join(known[:5])}{', …' if len(known) > 5 else ''} have."
            )
            msg = f"[data] holdout_subjects names {subject!r}, who has no labelled window; {hint}"
            raise DataError(msg)
    return np.unique(groups[labelled & np.isin(windows.subjects, list(subjects))])


def _drawn(
    windows: WindowSet,
    labelled: NDArray[np.bool_],
    groups: NDArray[np.int64],
    people: NDArray[np.int64],
    drawn: NDArray[np.int64],
    wanted: Sequence[int],
    share: float,
    min_train: int,
    seed: int,
) -> NDArray[np.int64]:
    counts = np.zeros((len(people), len(windows.scene_names)))
    np.add.at(counts, (np.searchsorted(people, groups[labelled]), windows.scenes[labelled]), 1)
    counts = counts[:, list(wanted)]
    most = len(people) - min_train
    size = min(max(1, round(share * len(people))), most)
    if len(drawn) < size:
        msg = f"Too few people: {_summary(windows)}; {size} are to be held out, and only {len(drawn)} have not been before."
        raise TooFewSubjects(msg)
    candidates, most = np.searchsorted(people, drawn), min(most, len(drawn))
    rng = np.random.default_rng(seed)
    best: tuple[tuple[int, float], NDArray[np.int64]] | None = None
    # Other sizes, the nearest first, only where no draw of this one has every scene on both sides.
    for number in sorted(range(1, most + 1), key=lambda number: abs(number - size)):
        for _ in range(_DRAWS):
            draw = np.sort(candidates[rng.permutation(len(candidates))[:number]])
            held = counts[draw].sum(0)
            rest = counts.sum(0) - held
            uneven = float(np.abs(held / counts.sum(0) - share).mean())
            key = (int((held == 0).sum() + (rest == 0).sum()), uneven)
            if best is None or key < best[0]:
                best = (key, draw)
        if best is not None and best[0][0] == 0:
            break
    if best is None:  # pragma: no cover
        raise AssertionError
    return people[best[1]]


def out_of_fold(
    judges: Sequence[str],
    judged: Callable[[NDArray[np.int64], NDArray[np.bool_]], Mapping[str, NDArray[np.float64]]],
    labels: NDArray[np.int64],
    groups: NDArray[np.int64],
    scenes: int,
    *,
    train: NDArray[np.bool_],
    folds: int,
    seed: int,
    progress: Progress,
) -> dict[str, NDArray[np.float64]]:
    """Judge → (n, scenes) probabilities, each by one that has not seen the window's group; no opinion where one group alone teaches.

    Args:
        judges: their names.
        judged: (k,) rows to learn from, (n,) mask of m to judge → judge → (m, scenes) probabilities.
        labels: (n,) as given.
        groups: (n,) who belongs together.
        scenes: how many there are.
        train: (n,) who teaches; the others are judged by all.
        folds: how many, at most.
        seed: of the folds, and of who teaches, where they are very many.
        progress: told after each.
    """
    rows = np.flatnonzero(train)
    fold = np.full(len(labels), -1)
    fold[rows] = grouped_folds(groups[rows], labels[rows], folds, rng=np.random.default_rng(seed))
    last = int(fold.max()) + 1
    total, times = {name: np.zeros((len(labels), scenes)) for name in judges}, np.zeros(len(labels))
    for number in range(last):
        learn = as_many_of_each(np.flatnonzero(train & (fold != number)), labels, seed)
        judge = (fold == number) | ~train
        if not len(learn):  # nobody is left to judge it
            continue
        for name, seen in judged(learn, judge).items():
            total[name][judge] += seen
        times[judge] += 1
        progress(number + 1, last, "out of fold")
    even = np.where(times[:, None] == 0, 1 / scenes, 0.0)
    return {name: each / np.maximum(times, 1)[:, None] + even for name, each in total.items()}
