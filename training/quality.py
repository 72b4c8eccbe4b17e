"""How far each label can be believed: a score in [0, 1], higher is cleaner, with its reasons.

Several judges say which scene a window shows, none of them from its own label:

- heads fitted without this person, and heads fitted without this session. The former are not taken in by a person who is
  labelled wrongly throughout, the latter know the person's own manner: what is unusual is not wrong.
  Those that are held least to the original also judge on the way there, a mean over their iterations (after Pleiss et al., 2020,
  "Identifying mislabeled data using the area under the margin ranking"): what they see early, wrong labels have not yet taught them;
- trees fitted without this person to what the signals themselves are like (:mod:`training.traits`): all others see them through the
  original model's features, and cannot tell apart what it confuses on the new phones;
- the class-balanced vote of the nearest windows of other people in those features;
- the original model as it is.

From what they see, made as sure as the labels bear out, comes the probability that a label is right: the *belief*
(:mod:`training.belief`). Judges that were fitted to
wrong labels repeat them, the more so for rare scenes; so they are fitted again, each window counting by the belief in it, and judge
anew, the trees also with how they take scenes for each other in the mean undone (:func:`training.belief.unmixed`), which all labels
together say, a window's own among them.
The score is the belief, with a part of the rank within (scene, person), shrunk to the scene where a person has few windows;
times the *physical* quality: is there a signal at all (:mod:`training.physical`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax

from training.asked import as_many_of_each
from training.belief import calibrated, label_belief, label_runs, look_counts, scenes_shown, trust_shares, unmixed
from training.dataset import WindowSet
from training.errors import ModelError
from training.filterloss import logit_adjustment
from training.folds import out_of_fold
from training.heads import Head, head_path
from training.physical import physical_checks, physical_quality
from training.settings import QualitySettings
from training.tracking import Progress, no_progress
from training.traits import told_by_trees, traits

Array = NDArray[np.float64]
_DOUBT = 0.5
"""Below it, a look at a window speaks against its label, or its signal is poor."""
_NEIGHBOURS, _ORIGINAL, _SIGNALS, _ON_THE_WAY = "neighbours", "original", "signals", "on the way"
_HEADS, _UNMIXED = "heads", "signals, unmixed"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Quality:
    """Scores of n windows, each (n,) in [0, 1], higher is cleaner."""

    margin: Array
    """Of the label over the best other scene, in the eyes of the heads (confident learning's: Northcutt et al., 2021)."""
    neighbours: Array
    """Of the label over the best other scene, among the neighbours' votes."""
    original: Array
    """Of the label over the best other scene, in the eyes of the original model."""
    physical: Array
    """Whether there is a signal at all: the worst of the checks."""
    belief: Array
    """Probability that the label is right."""
    score: Array
    """All of it together."""
    seen: NDArray[np.int64]
    """Scene that the judges together see."""
    mixed: Array
    """(n, scenes) probabilities that the judges together see, before they are made as sure as the labels bear out."""
    trust: dict[str, float]
    """Judge → its share in the judgement."""
    temperature: float
    """Of the judgement: below 1 the judges together are surer than their mixture says, above 1 less sure."""
    wrong: dict[str, float]
    """Scene → share of its labels that are wrong, as estimated."""
    checks: dict[str, Array] = field(default_factory=dict)
    """Of the signals, by their names (:func:`training.physical.physical_checks`); none where scores were read back."""
    signals: Array | None = None
    """Of the label over the best other scene, by the signals themselves; None where scores were read back."""

    def signal(self, labels: NDArray[np.int64], rows: NDArray[np.bool_]) -> Array:
        """What their signals leave of the belief in the windows of a training set: less than all where one is poor for its scene.

        Poor is less than half of what is usual (the median) for the scene: where phones drop samples whenever people walk, those that are
        to be recognised will, too, and no scene loses weight for it.

        Args:
            labels: (n,) of all windows that were scored.
            rows: (n,) mask of the training set's.

        Returns:
            (rows,) from 0 to 1.
        """
        physical, labels = self.physical[rows], labels[rows]
        usual = np.zeros(len(physical))
        for scene in np.unique(labels):
            usual[labels == scene] = np.median(physical[labels == scene])
        poor = _DOUBT * usual
        share: Array = np.divide(np.minimum(physical, poor), poor, out=np.ones(len(physical)), where=poor > 0)
        return share

    def worth(self, labels: NDArray[np.int64], rows: NDArray[np.bool_]) -> Array:
        """(rows,) from 0 to 1, what the windows of a training set are worth: the belief in their labels, and :meth:`signal` of it."""
        worth: Array = self.belief[rows] * self.signal(labels, rows)
        return worth

    def looks(self) -> dict[str, Array]:
        """Every score by its name."""
        names = ("margin", "neighbours", "original", "physical", "belief", "score")
        return {name: getattr(self, name) for name in names}

    def reasons(self, windows: WindowSet) -> list[str]:
        """For each of the windows that were scored, what speaks against its label, with the number; empty where nothing does."""
        looks = {
            "other people's models see another scene": self.margin,
            "its neighbours carry other labels": self.neighbours,
            "the original model sees another scene": self.original,
            **({} if self.signals is None else {"its signals look like another scene's": self.signals}),
            "all that is seen of its session is against it": self.belief,
        }
        found = []
        for at, label in enumerate(windows.scenes.tolist()):
            against = [f"{text} ({look[at]:.2f})" for text, look in looks.items() if look[at] < _DOUBT]
            if against and self.seen[at] != label:
                against.insert(0, f"it looks like {windows.scene_names[self.seen[at]]}")
            if against and windows.verified is not None and windows.verified[at]:
                against.insert(0, "believed all the same, as it is verified")
            if self.physical[at] < _DOUBT:
                poor = ", ".join(f"{name} {check[at]:.2f}" for name, check in self.checks.items() if check[at] < 1)
                against.append(f"the signal is poor ({poor})")
            found.append("; ".join(against))
        return found


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

    Raises:
        ModelError: the model knows one scene only, or makes something that is not finite of a window.
    """
    if len(head.bias) == 1:
        msg = f"A model that knows {windows.scene_names[0]} only cannot judge labels: train an original model of at least two scenes."
        raise ModelError(msg)
    broken = np.flatnonzero(~np.isfinite(features).all(1))
    if len(broken):
        first = broken[0]
        largest = np.abs(np.nan_to_num(windows.signals[first])).max()
        msg = (
            f"The model makes NaN or infinity of {len(broken)} windows, the first in session {windows.sessions[first]} of "
            f"{windows.devices[first]}, whose largest value is {largest:.3g}. If no sensor measures that, leave the session out; else "
            "train another original, with a smaller [original] learning_rate."
        )
        raise ModelError(msg)
    settings = settings or QualitySettings()
    labels, groups, runs = windows.scenes, windows.groups(), label_runs(windows)
    weights = np.ones(len(labels))
    voters = as_many_of_each(np.flatnonzero(train), labels, seed)
    near = _neighbourhood(voters, groups, features, settings.neighbours)
    alike = traits(windows.signals, windows.channels)
    times, shown = look_counts(runs, settings.novelty, train=train), None
    for number in range(settings.rounds):
        told = partial(_within, progress, number, settings.rounds)
        judges = _judges(
            windows,
            (features, alike),
            weights,
            head,
            (voters, near),
            train=train,
            settings=settings,
            seed=seed,
            progress=told,
        )
        if shown is not None:
            judges[_UNMIXED] = unmixed(judges[_SIGNALS], shown, times)
        shares = trust_shares(np.stack(list(judges.values())), labels, train=train)
        mixed = np.einsum("j,jns->ns", shares, np.stack(list(judges.values())))
        seen, temperature = calibrated(mixed, labels, runs, train=train, novelty=settings.novelty)
        belief, wrong = label_belief(
            seen, labels, runs, train=train, novelty=settings.novelty, verified=windows.verified
        )
        weights, shown = np.maximum(belief, settings.floor), scenes_shown(seen, labels, belief, times)
    heads = np.mean([seen_by for name, seen_by in judges.items() if name.startswith(_HEADS)], axis=0)
    margin, original, neighbours, signals = (
        _margin(each, labels) for each in (heads, judges[_ORIGINAL], judges[_NEIGHBOURS], judges[_SIGNALS])
    )
    checks = physical_checks(windows)
    physical = physical_quality(checks)
    ranked = _ranks(belief, labels, groups, settings.shrink, train=train)
    score = np.clip(((1 - settings.rank_share) * belief + settings.rank_share * ranked) * physical, 0, 1)
    return Quality(
        margin=margin, neighbours=neighbours, original=original, physical=physical, belief=belief, score=score,
        seen=seen.argmax(1), mixed=mixed, trust=dict(zip(judges, map(float, shares), strict=True)), temperature=temperature,
        checks=checks, signals=signals, wrong=dict(zip(windows.scene_names, map(float, wrong), strict=True)),
    )  # fmt: skip


def _judges(
    windows: WindowSet,
    seen: tuple[NDArray[np.floating], NDArray[np.float32]],
    weights: Array,
    head: Head,
    neighbourhood: tuple[NDArray[np.int64], NDArray[np.int64]],
    *,
    train: NDArray[np.bool_],
    settings: QualitySettings,
    seed: int,
    progress: Progress,
) -> dict[str, Array]:
    """Judge → (n, scenes) probabilities, learned from windows with these weights; of the original's features, and of :func:`traits`."""
    labels, people, scenes = windows.scenes, windows.groups(), len(windows.scene_names)
    features, alike = seen
    by_heads = partial(_by_heads, features, labels, weights, head, settings.pulls)
    judges: dict[str, Array] = {}
    for number, (name, groups) in enumerate((("person", people), ("session", windows.session_groups()))):
        told = partial(_within, progress, number, 3)
        found = out_of_fold(
            (*map(_at, settings.pulls), _ON_THE_WAY), by_heads, labels, groups, scenes, train=train, folds=settings.folds, seed=seed,
            progress=told,
        )  # fmt: skip
        judges |= {f"{_HEADS} without the {name}, {which}": each for which, each in found.items()}

    def by_trees(learn: NDArray[np.int64], judge: NDArray[np.bool_]) -> dict[str, Array]:
        return {_SIGNALS: told_by_trees(alike[learn], labels[learn], weights[learn], alike[judge], scenes, seed=seed)}

    told = partial(_within, progress, 2, 3)
    judges |= out_of_fold(
        (_SIGNALS,), by_trees, labels, people, scenes, train=train, folds=settings.folds, seed=seed, progress=told
    )
    judges[_NEIGHBOURS] = _votes(*neighbourhood, labels, weights, scenes)
    judges[_ORIGINAL] = softmax(head.logits(features), axis=1)
    return judges


def _within(progress: Progress, number: int, rounds: int, done: int, total: int, text: str) -> None:
    progress(number * total + done, rounds * total, text)


def _by_heads(
    features: NDArray[np.floating],
    labels: NDArray[np.int64],
    weights: Array,
    head: Head,
    pulls: Sequence[float],
    learn: NDArray[np.int64],
    judge: NDArray[np.bool_],
) -> dict[str, Array]:
    """Which heads → (m, scenes) probabilities.

    Args:
        features: (n, d) of the original model.
        labels: (n,) as given.
        weights: (n,) how much a window teaches.
        head: the original's.
        pulls: how strongly they are pulled to it.
        learn: (k,) rows to learn from.
        judge: (n,) mask of m to judge.
    """
    found: dict[str, Array] = {}
    shift = adjustment(labels[learn], weights[learn], len(head.bias))
    for pull in pulls:
        path = head_path(features[learn], labels[learn], weights[learn], start=head, pull=pull, adjustment=shift)
        weakest = pull == min(pulls)
        seen = [softmax(each.logits(features[judge]), axis=1) for each in path[0 if weakest else -1 :]]
        found[_at(pull)] = seen[-1]
        if weakest:
            found[_ON_THE_WAY] = np.mean(seen, axis=0)
    return found


def _at(pull: float) -> str:
    return f"pull {pull:g}"


def adjustment(labels: NDArray[np.int64], weights: NDArray[np.floating], scenes: int) -> NDArray[np.floating]:
    """:func:`training.filterloss.logit_adjustment` of arrays."""
    shift: NDArray[np.floating] = logit_adjustment(
        torch.from_numpy(labels), torch.from_numpy(np.asarray(weights, np.float64)), scenes
    ).numpy()
    return shift


def _neighbourhood(
    voters: NDArray[np.int64], groups: NDArray[np.int64], features: NDArray[np.floating], count: int
) -> NDArray[np.int64]:
    """(n, count) the nearest of the voters who are other people's, by cosine, the nearest first; -1 where there are no more."""
    unit = np.asarray(features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12), np.float32)
    found = np.full((len(features), count), -1)
    for group in np.unique(groups):
        mine, others = np.flatnonzero(groups == group), voters[groups[voters] != group]
        near = min(count, len(others))
        if near:
            found[mine, :near] = others[_nearest(unit[mine], unit[others], near)]
    return found


def _nearest(unit: NDArray[np.float32], among: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """(n, count) rows of ``among`` (m, d) that are nearest to each of ``unit`` (n, d), by cosine; exact."""
    try:
        import faiss  # noqa: PLC0415
    except ImportError:  # a bare GPU node: the same, slower
        from sklearn.neighbors import NearestNeighbors  # noqa: PLC0415

        search = NearestNeighbors(n_neighbors=count, metric="cosine", algorithm="brute").fit(among)
        return np.asarray(search.kneighbors(unit, return_distance=False), np.int64)
    return np.asarray(faiss.knn(unit, among, count, metric=faiss.METRIC_INNER_PRODUCT)[1], np.int64)


def _votes(
    voters: NDArray[np.int64], near: NDArray[np.int64], labels: NDArray[np.int64], weights: Array, scenes: int
) -> Array:
    """(n, scenes) shares of the votes of the voters near each window, each scene's votes counting by its rarity; even without any."""
    there = near >= 0
    rarity = 1 / np.maximum(np.bincount(labels[voters], weights=weights[voters], minlength=scenes), 1)
    weight = np.where(there, rarity[labels[near]] * weights[near], 0.0)
    cast = np.zeros((len(near), scenes))
    np.add.at(cast, (np.arange(len(near))[:, None], labels[near]), weight)
    # One vote spread evenly: that a few agree is no certainty.
    cast += (weight.sum(1) / np.maximum(there.sum(1), 1))[:, None] / scenes
    total = cast.sum(1, keepdims=True)
    votes: Array = np.divide(cast, total, out=np.full_like(cast, 1 / scenes), where=total > 0)
    return votes


def _margin(probabilities: Array, labels: NDArray[np.int64]) -> Array:
    """(n,) of the label over the best other scene, from [-1, 1] to [0, 1]: cleanlab's normalised margin, where cleanlab may be missing."""
    rows = np.arange(len(labels))
    others = probabilities.copy()
    given = others[rows, labels]
    others[rows, labels] = -1
    margin: Array = (given - others.max(1) + 1) / 2
    return margin


def _ranks(
    belief: Array, labels: NDArray[np.int64], groups: NDArray[np.int64], shrink: int, *, train: NDArray[np.bool_]
) -> Array:
    """(n,) rank in [0, 1] within (scene, person), shrunk to the rank within the scene where a person has few windows.

    Training windows are ranked among themselves; the others are held against them, and against each other within a person.
    """
    ranks = np.empty(len(belief))
    for scene in np.unique(labels):
        in_scene = np.flatnonzero(labels == scene)
        learned = in_scene[train[in_scene]]
        ranks[in_scene] = _rank(belief[in_scene], among=belief[learned if len(learned) else in_scene])
        for group in np.unique(groups[in_scene]):
            rows = in_scene[groups[in_scene] == group]
            own = len(rows) / (len(rows) + shrink)
            ranks[rows] = own * _rank(belief[rows], among=belief[rows]) + (1 - own) * ranks[rows]
    return ranks


def _rank(values: Array, *, among: Array) -> Array:
    """Share of ``among`` that is below each value; of equals, half."""
    ordered = np.sort(among)
    below, upto = np.searchsorted(ordered, values, side="left"), np.searchsorted(ordered, values, side="right")
    rank: Array = (below + upto) / (2 * len(ordered))
    return rank
