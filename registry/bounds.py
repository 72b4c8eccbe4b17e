"""How far down an accuracy may really be, seen that so few people were asked, and that they were asked before. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_DRAWS = 20_000
_SEED = 0
ERROR = 0.05
"""How likely the bounds of a holdout, all its questions together, may be wrong: 5 %, so that each is one of 95 %."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Person:
    """What a model made of one person's windows."""

    right: int
    """Windows whose scene was recognised."""
    windows: int
    """Windows in all, from 1."""


def allowed_error(question: int) -> float:
    """How likely the bound may be wrong that is asked for at this question of the same holdout.

    What is asked often enough says yes by chance. So each question spends less of the 5 % that all of them have together: the
    k-th spends 0.05 ÷ (k·(k+1)), which sums to 0.05 however many there will be (Bonferroni with shares that need no number of
    questions to be named beforehand: "alpha spending", Lan & DeMets 1983; against reuse of a holdout: Dwork et al. 2015). The
    first spends 0.025, which makes it the lower end of the usual two-sided interval of 95 %.

    Args:
        question: counts from 1.
    """
    return ERROR / (question * (question + 1))


def lower_accuracy(people: Sequence[Person], error: float) -> float:
    """Lower bound of the accuracy among people like these: percentile bootstrap over people (Efron & Tibshirani 1993).

    People are drawn with replacement, with all their windows: windows of one person are alike. With few people the bound can go
    no lower than the worst of them, and is too high rather than too low: a holdout of two or three says little. The draws are the
    same for the same number of people, so the bound is a function of what is given.

    Args:
        people: of the holdout, each with at least one window.
        error: how likely it may be wrong, above 0; below 1 ÷ 20,000 it is the lowest of the draws.

    Returns:
        A share; NaN with fewer than two people, of whom nothing can be said.
    """
    if len(people) < 2:
        return math.nan
    right = np.array([person.right for person in people], np.float64)
    windows = np.array([person.windows for person in people], np.float64)
    drawn = np.random.default_rng(_SEED).integers(len(people), size=(_DRAWS, len(people)))
    accuracies = right[drawn].sum(1) / windows[drawn].sum(1)
    return float(np.quantile(accuracies, error, method="lower"))
