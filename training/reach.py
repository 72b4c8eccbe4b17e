"""How far from the original to go, as people see it who were left out: not at all, by the head alone, or with what is below it, too.

Each fold of the training part's people in turn is left out, and judges what was trained without it, so that everybody judges once and
nobody judges what has learned from him. Labels may be wrong there, too, so each counts by how far it can be believed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from training.asked import as_they_come
from training.choosing import Array, People
from training.folds import grouped_folds
from training.heads import Head

_SURE = 2.0
"""Standard errors."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reach:
    """How far, and what people left out say of it."""

    pull: float
    """How strongly the head is pulled to the original's."""
    share: float
    """Of the way from the original's weights to the trained ones; 0: it stays as it is."""
    below: bool = False
    """Whether what is below the head is trained, too."""
    value: float
    """Balanced accuracy among people left out; the original's, where it stays."""
    original: float
    """The original's, of the same people."""
    begins: float
    """How strongly the head is pulled that what is below it begins with: of the heads that go the whole way, the best one."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Judges:
    """m windows of the training part's people, in folds; of very many windows, some."""

    rows: NDArray[np.int64]
    """(m,) which of all windows."""
    fold: NDArray[np.int64]
    """(m,) with whom a person is left out."""
    people: People

    @classmethod
    def of(
        cls, labels: NDArray[np.int64], groups: NDArray[np.int64], believed: NDArray[np.floating], *, folds: int, seed: int
    ) -> Judges:  # fmt: skip
        """Those of a training part.

        Args:
            labels: (n,) of all windows.
            groups: (n,) whose they are.
            believed: (n,) how much a window counts.
            folds: how many, at most.
            seed: of the folds, of draws of people, and of which windows are asked.
        """
        rows = as_they_come(labels, seed)
        labels, groups, counts = labels[rows], groups[rows], np.asarray(believed, np.float64)[rows]
        fold = grouped_folds(groups, labels, folds, rng=np.random.default_rng(seed))
        return cls(rows=rows, fold=fold, people=People(labels, groups, counts, seed=seed))

    @property
    def folds(self) -> list[NDArray[np.bool_]]:
        """(m,) masks of who is left out, one after the other; none of one person alone: nobody would be left."""
        last = int(self.fold.max())
        return [self.fold == number for number in range(last + 1)] if last else []

    def believing(self, believed: NDArray[np.floating]) -> Judges:
        """The same judges, each of all (n,) windows counting by another number."""
        return replace(self, people=self.people.counting(np.asarray(believed, np.float64)[self.rows]))

    def judge(self, logits: NDArray[np.floating]) -> Array:
        """Of (m, scenes) logits, each by what has not seen that person: see :meth:`training.choosing.People.judge`."""
        return self.people.judge(logits.argmax(1))

    def as_good_as_the_best(self, judged: Sequence[Array]) -> list[bool]:
        """See :meth:`training.choosing.People.as_good_as_the_best`."""
        return self.people.as_good_as_the_best(judged)

    def better(self, judged: Array, other: Array) -> bool:
        """See :meth:`training.choosing.People.better`."""
        return self.people.better(judged, other)


def choose_head(
    judges: Judges,
    features: NDArray[np.floating],
    original: Head,
    fitted: Callable[[NDArray[np.int64], float], Head],
    *,
    shares: Sequence[float],
    pulls: Sequence[float],
) -> tuple[Reach, NDArray[np.floating]]:
    """The head's pull and its share of the way, and its (m, scenes) logits of people left out.

    If the original is as good as the best, it stays: a gain that these people cannot tell from chance is no reason to leave what is
    known to work. Otherwise, of those that are as good as the best, and each by itself better than the original by more than chance would
    have it, the farthest from it: the heads that are judged have seen fewer people than the one that will be used, and so look best
    nearer to the original than it will.

    Args:
        judges: m of the n windows.
        features: (n, d) what the head sees.
        original: its head.
        fitted: rows and a pull → the head that is fitted to them.
        shares: what may be chosen.
        pulls: what may be chosen.
    """
    features = features[judges.rows]
    origin = original.logits(features)
    stays = judges.judge(origin)
    pulls = sorted(pulls, reverse=True)
    chosen = Reach(pull=pulls[0], share=0.0, value=float(stays[0]), original=float(stays[0]), begins=min(pulls))
    if not judges.folds:  # one person only: nobody is left to judge, so the middle of what is sensible
        return replace(chosen, share=sorted(shares)[len(shares) // 2]), origin
    tried, judged, seen, whole = [chosen], [stays], [origin], {}
    for pull in pulls:
        moved = np.empty_like(origin)
        for left_out in judges.folds:
            moved[left_out] = fitted(judges.rows[~left_out], pull).logits(features[left_out])
        whole[pull] = float(judges.judge(moved)[0])
        for share in shares:
            seen.append((1 - share) * origin + share * moved)
            judged.append(judges.judge(seen[-1]))
            tried.append(replace(chosen, pull=pull, share=share, value=float(judged[-1][0])))
    begins = max(pulls, key=whole.__getitem__)
    stays_fine, *fine = judges.as_good_as_the_best(judged)
    if stays_fine:
        return replace(chosen, begins=begins), origin
    # Where people differ much, one that gains next to nothing is as good as the best, too.
    good = [at for at, enough in enumerate(fine, start=1) if enough and judges.better(judged[at], stays)]
    farthest = max(good, key=lambda at: (tried[at].share, -tried[at].pull))
    return replace(tried[farthest], begins=begins), seen[farthest]


def whole_way(original: float, pull: float) -> Reach:
    """As far as it goes, with this pull, nobody being asked; ``original`` is its balanced accuracy."""
    return Reach(pull=pull, share=1.0, value=original, original=original, begins=pull)


def choose_below(
    judges: Judges,
    head: Reach,
    head_logits: NDArray[np.floating],
    origin: NDArray[np.floating],
    logits: NDArray[np.floating],
    *,
    share: float,
    worth: float,
) -> tuple[Reach, float]:
    """Whether to train below the head; and what people left out say of the network that comes of it.

    It is, unless it is surely worse than the head: what people left out believe comes of heads, which favours heads (and of networks,
    where these have looked, which makes up for it, or a little more), and networks gain more by learning from those people as well,
    and for longer: what is judged has two thirds of the epochs where there are four folds (:func:`training.schedule.tried_of`).
    But it must be better than the original, by more than chance would have it, whatever the head is. How far is no question: between
    two networks, an average of their weights may recognise less than either.

    Args:
        judges: m windows.
        head: what was chosen of heads.
        head_logits: (m, scenes) of it, see :func:`choose_head`.
        origin: (m, scenes) logits of the original.
        logits: (m, scenes) of the network.
        share: of the way that it has gone.
        worth: how much better than the head it must be, in balanced accuracy, give or take two standard errors.
    """
    judged, by_head, as_it_was = (judges.judge(each) for each in (logits, head_logits, origin))
    value = float(judged[0])
    error = float(judges.people.errors(judged - by_head))
    if not judges.better(judged, as_it_was) or value <= head.value + worth - _SURE * error:
        return head, value
    return replace(head, pull=head.begins, share=share, below=True, value=value), value
