"""Which of several models to prefer, by people whom none of them has seen.

With few people left out, the best of many is best by chance as often as not. So models are compared on the same draws of people
(bootstrap), and what is no worse than the best by more than the standard error of their difference counts as good as the best (the
one-standard-error rule: Breiman et al., 1984, "Classification and Regression Trees").
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_DRAWS = 200


class People:
    """The people left out, and draws of them."""

    def __init__(self, labels: NDArray[np.int64], groups: NDArray[np.int64], counts: Array, *, seed: int) -> None:
        """Nothing is judged yet.

        Args:
            labels: (n,) of their windows.
            groups: (n,) whose they are.
            counts: (n,) how much a window counts.
            seed: of the draws.
        """
        names, person = np.unique(groups, return_inverse=True)
        scenes, scene = np.unique(labels, return_inverse=True)
        self._labels, self._counts, self._cell = labels, counts, person * len(scenes) + scene
        self._shape = (len(names), len(scenes))
        rng = np.random.default_rng(seed)
        drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=_DRAWS)
        # The people as they are come first.
        self._times = np.vstack([np.ones((1, len(names))), drawn])

    def counting(self, counts: Array) -> People:
        """The same people and draws, each window counting by another number, (n,)."""
        others = copy.copy(self)
        others._counts = counts  # noqa: SLF001 - one of its kind
        return others

    def judge(self, predicted: NDArray[np.int64]) -> Array:
        """(1 + draws,) balanced accuracies: of the people as they are, then of each draw; of the scenes that a draw has."""
        right = self._sums(self._counts * (predicted == self._labels))
        there = self._sums(self._counts)
        with np.errstate(invalid="ignore"):
            shares = np.where(there > 0, right / there, np.nan)
        known = np.isfinite(shares).any(1)
        found = np.zeros(len(shares))
        found[known] = np.nanmean(shares[known], axis=1)
        return found

    def as_good_as_the_best(self, judged: Sequence[Array]) -> list[bool]:
        """Of each model, whether it is no worse than the best by more than the standard error of their difference.

        Args:
            judged: what :meth:`judge` says of each.
        """
        values = np.stack(judged)
        differences = values[int(values[:, 0].argmax())] - values
        good: list[bool] = (differences[:, 0] <= self.errors(differences) + 1e-12).tolist()
        return good

    def better(self, judged: Array, other: Array) -> bool:
        """Whether a model is better than another by more than the standard error of their difference, see :meth:`judge`."""
        return not self.as_good_as_the_best([other, judged])[0]

    def errors(self, differences: Array) -> Array:
        """Standard errors, over people, of differences (…, 1 + draws) between what :meth:`judge` says of two."""
        # Draws of n people vary less than n people do (Bessel), which is much where n is 4.
        people = self._shape[0]
        found: Array = differences[..., 1:].std(axis=-1) * np.sqrt(people / max(people - 1, 1))
        return found

    def _sums(self, values: Array) -> Array:
        cells = np.bincount(self._cell, weights=values, minlength=self._shape[0] * self._shape[1]).reshape(self._shape)
        sums: Array = self._times @ cells
        return sums
