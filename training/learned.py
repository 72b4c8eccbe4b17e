"""The map from belief to weight, learned: its parameters follow the gradient of the loss on people left out.

w(b) = floor + (1 − floor) · σ(slope · logit(b) + shift): with slope 1 and shift 0 the belief itself, with slope 0 equal weights. A head
fitted with these weights is a function of them; the derivative of its loss on windows that it has not seen is had without unrolling
the fit, from the optimum's condition (implicit differentiation: Bengio, 2000, "Gradient-based optimization of hyperparameters";
Lorraine et al., 2020). That the weights also move the logit adjustment is left out of it: it pushes ``shift`` a little further from 0
and costs nothing that could be measured (at most 0.0005 of the loss). The windows that judge count by the belief in their labels, and
each scene as much as the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse.linalg import LinearOperator, cg
from scipy.special import expit, log_softmax, logit, softmax

from training.heads import Head, fit_head, one_thread
from training.quality import adjustment

Array = NDArray[np.float64]
_STEPS = 10
_ITERATIONS = 400
"""Of a head's fit, at most: the slope by the weights is that of the optimum, and with a weak pull 100 do not reach it."""
_EDGE = 1e-3
"""Beliefs nearer to 0 or 1 than this are as sure as that."""
_TIE = 0.02
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
        head: the original's.
        pull: of the heads, see :func:`training.heads.fit_head`.
        floor: least weight.
    """
    if not fold.max() or floor >= 1:
        return WeightMap(slope=1.0, shift=0.0, floor=floor)

    # The next weights are hardly others, so neither are the heads fitted with them.
    heads: dict[int, Head] = {}

    def objective(parameters: Array) -> tuple[float, Array]:
        slope, shift = parameters
        found = WeightMap(slope=slope, shift=shift, floor=floor)
        weights = found.of(belief)
        loss, by_weight = held_out_loss(features, labels, weights, belief, fold, head=head, pull=pull, heads=heads)
        by_logit = by_weight * (weights - floor) * (1 - weights) / (1 - floor)
        gradient = np.array([(by_logit * _odds(belief)).sum(), by_logit.sum()])
        tie = np.array([slope - 1, shift])
        return loss + _TIE * float((tie**2).sum()), gradient + 2 * _TIE * tie

    bounds = [(0.0, 4.0), (-4.0, 4.0)]
    best = minimize(objective, [1.0, 0.0], jac=True, method="L-BFGS-B", bounds=bounds, options={"maxfun": _STEPS})
    return WeightMap(slope=float(best.x[0]), shift=float(best.x[1]), floor=floor)


def held_out_loss(
    features: NDArray[np.floating],
    labels: NDArray[np.int64],
    weights: Array,
    belief: Array,
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
        belief: (n,) how much a window counts where it judges.
        fold: see there.
        head: see there.
        pull: see there.
        heads: fold → the head that was fitted for it last time, where the search begins; the new ones are left in it.
    """
    heads = {} if heads is None else heads
    total, slopes, folds = 0.0, np.zeros(len(labels)), int(fold.max()) + 1
    for number in range(folds):
        learn, judge = fold != number, fold == number
        loss, by_weight, heads[number] = _one_fold(
            features[learn], labels[learn], weights[learn], features[judge], labels[judge], belief[judge],
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
    counts: Array,
    *,
    head: Head,
    pull: float,
    near: Head | None,
) -> tuple[float, Array, Head]:
    shift = adjustment(labels, weights, len(head.bias))
    fitted = fit_head(
        features, labels, weights, start=head, pull=pull, adjustment=shift, near=near, iterations=_ITERATIONS
    )
    # As in fit_head: the bias is one more feature of average size, and the pull is in units of the features' size.
    h, share = features.astype(np.float64), weights / weights.sum()
    squares = (h * h).sum(1)
    size = float((share * squares).sum()) or 1.0
    constant = np.sqrt(size / h.shape[1])
    h = np.hstack([h, np.full((len(h), 1), constant)])
    judges = np.hstack([judging.astype(np.float64), np.full((len(judging), 1), constant)])
    change = np.hstack([fitted.weight - head.weight, (fitted.bias - head.bias)[:, None] / constant])
    at = np.hstack([fitted.weight, fitted.bias[:, None] / constant])
    importance = _even(truth, counts)
    log_p = log_softmax(judges @ at.T, axis=1)
    loss = -float((importance * log_p[np.arange(len(truth)), truth]).sum())
    outer = ((np.exp(log_p) - _one_hot(truth, len(head.bias))) * importance[:, None]).T @ judges
    p = softmax(h @ at.T + shift, axis=1)

    def hessian(flat: Array) -> Array:
        step = flat.reshape(outer.shape)
        turned = h @ step.T
        turned = p * (turned - (p * turned).sum(1, keepdims=True))
        curved: Array = ((turned * share[:, None]).T @ h + pull * size * step).ravel()
        return curved

    operator = LinearOperator((outer.size, outer.size), matvec=hessian, dtype=np.float64)
    with one_thread():
        solved, _ = cg(operator, outer.ravel(), rtol=1e-4, maxiter=200)
    direction = solved.reshape(outer.shape)
    # d(optimum's condition)/dw: the window's own gradient less the mean one, and what it changes of the pull's size.
    own = ((p - _one_hot(labels, len(head.bias))) * (h @ direction.T)).sum(1)
    scale = pull * float((direction * change).sum()) * (squares - size)
    by_weight: Array = -((own - (share * own).sum()) + scale) / weights.sum()
    return loss, by_weight, fitted


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
