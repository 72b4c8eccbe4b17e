"""The map from belief to weight, learned: its parameters follow the gradient of the loss on people left out.

w(b) = floor + (1 − floor) · σ(slope · logit(b) + shift): with slope 1 and shift 0 the belief itself, with slope 0 equal weights. A head
fitted with these weights is a function of them; the derivative of its loss on windows that it has not seen is had without unrolling
the fit, from the optimum's condition (implicit differentiation: Bengio, 2000, "Gradient-based optimization of hyperparameters";
Lorraine et al., 2020), and that of the logit adjustment and of what a scene keeps at least, which the weights move, with it: a line
search that is told another slope than the loss has gives up. The windows that judge count by the belief in their labels (or are
those alone that are known to be right), and each scene as much as the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse.linalg import cg
from scipy.special import expit, log_softmax, logit

from training.heads import Head, HeadProblem, one_thread
from training.quality import adjustment
from training.weights import floored, through_floor

Array = NDArray[np.float64]
_CURVATURE = 0.5
"""About that of the loss by the parameters: the search's first step is its slope over this."""
_SEARCH = {"maxfun": 10, "gtol": 3e-3 / _CURVATURE**0.5, "ftol": 1e-6}
"""Where the loss's slope is 0.003, the tie alone would move a parameter by 0.08 at most."""
_EDGE = 1e-3
"""Beliefs nearer to 0 or 1 than this are as sure as that."""
TIE = 0.02
"""How strongly the parameters are held to 1 and 0: with few people left out, the gradient is mostly chance."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightMap:
    """Belief → weight, monotone."""

    slope: float
    """How steeply the weight rises with the belief's odds; 0 or more."""
    shift: float
    """Above 0, doubtful windows weigh more than their belief."""
    floor: float
    """Least weight, 0 to 1."""

    def of(self, belief: Array) -> Array:
        """(n,) weights."""
        shares: Array = expit(self.slope * _odds(belief) + self.shift)
        return self.floor + (1 - self.floor) * shares


def learn_map(
    features: NDArray[np.floating],
    labels: NDArray[np.int64],
    belief: Array,
    fold: NDArray[np.int64],
    *,
    clean: Array | None = None,
    head: Head,
    pull: float,
    floor: float,
) -> WeightMap:
    """Find the map whose weights do best on the folds left out.

    Args:
        features: (n, d) of the training windows.
        labels: (n,) their labels.
        belief: (n,) probabilities that the labels are right.
        fold: (n,) of each window; each fold in turn judges.
        clean: (n,) how much a window counts where those judge that are known to be right, some of every scene; None: all judge, by the
            belief in their labels.
        head: the original's.
        pull: of the heads, see :class:`training.heads.HeadProblem`.
        floor: least weight.
    """
    if not fold.max() or floor >= 1:
        return WeightMap(slope=1.0, shift=0.0, floor=floor)

    # The next weights are hardly others, so neither are the heads fitted with them.
    heads: dict[int, Head] = {}
    unit = _CURVATURE**-0.5
    importance = even_in_each(labels, belief, fold) if clean is None else even_together(labels, clean, fold)

    def objective(parameters: Array) -> tuple[float, Array]:
        slope, shift = parameters * unit
        found = WeightMap(slope=slope, shift=shift, floor=floor)
        mapped = found.of(belief)
        weights = floored(mapped, labels, floor)
        loss, by_weight = held_out_loss(features, labels, weights, importance, fold, head=head, pull=pull, heads=heads)
        by_logit = through_floor(mapped, labels, by_weight) * (mapped - floor) * (1 - mapped) / (1 - floor)
        gradient = np.array([(by_logit * _odds(belief)).sum(), by_logit.sum()])
        tie = np.array([slope - 1, shift])
        return loss + TIE * float((tie**2).sum()), unit * (gradient + 2 * TIE * tie)

    bounds = np.array([(0.0, 4.0), (-4.0, 4.0)]) / unit
    best = minimize(objective, np.array([1.0, 0.0]) / unit, jac=True, method="L-BFGS-B", bounds=bounds, options=_SEARCH)
    slope, shift = best.x * unit
    return WeightMap(slope=float(slope), shift=float(shift), floor=floor)


def held_out_loss(
    features: NDArray[np.floating],
    labels: NDArray[np.int64],
    weights: Array,
    importance: Array,
    fold: NDArray[np.int64],
    *,
    head: Head,
    pull: float,
    heads: dict[int, Head] | None = None,
) -> tuple[float, Array]:
    """Mean loss over the folds left out, and (n,) its slope by each weight.

    Args:
        features: as for :func:`learn_map`, like ``labels``, ``fold``, ``head`` and ``pull``.
        labels: see there.
        weights: (n,) of the loss of the heads that are fitted.
        importance: (n,) of a window in its fold's loss, see :func:`even_in_each` and :func:`even_together`.
        fold: see there.
        head: see there.
        pull: see there.
        heads: fold → the head that was fitted for it last time, where the search begins; the new ones are left in it.
    """
    heads = {} if heads is None else heads
    total, slopes, folds = 0.0, np.zeros(len(labels)), int(fold.max()) + 1
    with one_thread():
        for number in range(folds):
            learn, judge = fold != number, fold == number
            loss, by_weight, heads[number] = _one_fold(
                features[learn], labels[learn], weights[learn], features[judge], labels[judge], importance[judge],
                head=head, pull=pull, near=heads.get(number),
            )  # fmt: skip
            total += loss / folds
            slopes[learn] += by_weight / folds
    return total, slopes


def _one_fold(
    features: NDArray[np.floating],
    labels: NDArray[np.int64],
    weights: Array,
    judging: NDArray[np.floating],
    truth: NDArray[np.int64],
    importance: Array,
    *,
    head: Head,
    pull: float,
    near: Head | None,
) -> tuple[float, Array, Head]:
    shift = adjustment(labels, weights, len(head.bias))
    problem = HeadProblem.of(features, labels, weights, start=head, pull=pull, adjustment=shift)
    change = problem.optimum(near)
    fitted = problem.head(change)
    log_p = log_softmax(fitted.logits(judging), axis=1)
    loss = -float((importance * log_p[np.arange(len(truth)), truth]).sum())
    outer = ((np.exp(log_p) - _one_hot(truth, len(shift))) * importance[:, None]).T @ problem.extended(judging)
    solved, _ = cg(problem.curvature(change), outer.ravel(), rtol=1e-4, maxiter=200)
    direction, p, share = solved.reshape(outer.shape), np.exp(problem.log_p(change)), problem.shares
    # d(optimum's condition)/dw: the window's own gradient less the mean one, and what it changes of the pull's size.
    turned = problem.inputs @ direction.T
    own = ((p - _one_hot(labels, len(shift))) * turned).sum(1)
    squares = (problem.inputs[:, :-1] ** 2).sum(1)
    scale = pull * float(solved @ change) * (squares - problem.size)
    by_weight: Array = -((own - (share * own).sum()) + scale) / weights.sum()
    # … and what it changes of the adjustment, which is that of the scenes' weights, but of those that have less than half a window.
    by_shift = -(share[:, None] * p * (turned - (p * turned).sum(1, keepdims=True))).sum(0)
    sums = np.bincount(labels, weights=weights, minlength=len(by_shift))
    by_sum = np.divide(by_shift, sums, out=np.zeros_like(sums), where=sums * len(labels) > 0.5 * weights.sum())
    by_weight += by_sum[labels] - (by_sum * sums).sum() / weights.sum()
    return loss, by_weight, fitted


def even_in_each(labels: NDArray[np.int64], counts: Array, fold: NDArray[np.int64]) -> Array:
    """(n,) importances that sum to 1 in each fold, where every scene that the fold has has the same sum: folds count alike."""
    importance = np.zeros(len(labels))
    for number in range(int(fold.max()) + 1):
        judge = fold == number
        importance[judge] = _even(labels[judge], counts[judge])
    return importance


def even_together(labels: NDArray[np.int64], counts: Array, fold: NDArray[np.int64]) -> Array:
    """(n,) importances whose mean over the folds sums to 1, every scene having the same sum over all folds: who has more counts more."""
    return _even(labels, counts) * (int(fold.max()) + 1)


def _even(labels: NDArray[np.int64], counts: Array) -> Array:
    """(n,) importances that sum to 1, every scene having the same sum."""
    importance = np.zeros(len(labels))
    scenes = [scene for scene in np.unique(labels) if counts[labels == scene].sum() > 0]
    for scene in scenes:
        rows = labels == scene
        importance[rows] = counts[rows] / counts[rows].sum() / len(scenes)
    return importance


def _one_hot(labels: NDArray[np.int64], scenes: int) -> Array:
    return np.eye(scenes)[labels]


def _odds(belief: Array) -> Array:
    odds: Array = logit(np.clip(belief, _EDGE, 1 - _EDGE))
    return odds
