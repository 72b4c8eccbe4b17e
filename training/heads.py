"""A linear head on cached features: convex, so it is fitted to its optimum in a fraction of a second, with nothing to schedule.

It stands in for fine-tuning wherever many fits are needed: out-of-fold scores, and the search for weights.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax
from threadpoolctl import ThreadpoolController

from training.losses import CROSS_ENTROPY, Loss
from training.network import SceneNet

Array = NDArray[np.float64]
_BLAS = ThreadpoolController()


def one_thread() -> AbstractContextManager[object]:
    """For products of small matrices: threads that share them wait for each other most of the time, on a busy machine all of it."""
    found: AbstractContextManager[object] = _BLAS.limit(limits=1, user_api="blas")
    return found


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Head:
    """Features (n, d) → logits (n, scenes)."""

    weight: Array
    """(scenes, d)"""
    bias: Array
    """(scenes,)"""

    @classmethod
    def of(cls, net: SceneNet) -> Head:
        """The head of a network."""
        layer = net.backbone.fc
        return cls(weight=layer.weight.detach().cpu().double().numpy(), bias=layer.bias.detach().cpu().double().numpy())

    def logits(self, features: NDArray[np.floating]) -> Array:
        """Logits (n, scenes)."""
        return features.astype(np.float64) @ self.weight.T + self.bias


def fit_head(
    features: NDArray[np.floating],
    labels: NDArray[np.int64],
    weights: NDArray[np.floating],
    *,
    start: Head,
    pull: float,
    adjustment: NDArray[np.floating] | None = None,
    loss: Loss = CROSS_ENTROPY,
    iterations: int = 100,
    near: Head | None = None,
) -> Head:
    """The last head of :func:`head_path`: the one at the optimum."""
    return head_path(
        features, labels, weights,
        start=start, pull=pull, adjustment=adjustment, loss=loss, iterations=iterations, near=near,
    )[-1]  # fmt: skip


def head_path(
    features: NDArray[np.floating],
    labels: NDArray[np.int64],
    weights: NDArray[np.floating],
    *,
    start: Head,
    pull: float,
    adjustment: NDArray[np.floating] | None = None,
    loss: Loss = CROSS_ENTROPY,
    iterations: int = 100,
    near: Head | None = None,
) -> list[Head]:
    """Minimise Σ w·ℓ / Σ w + pull · mean‖h‖² / 2 · ‖W − W₀‖² (L2-SP: Li et al., 2018, "Explicit inductive bias for transfer learning").

    Args:
        features: (n, d) cached.
        labels: (n,) scenes.
        weights: (n,) not negative, not all 0.
        start: W₀, the original's head, which it is pulled to, and where the search starts.
        pull: how strongly; the factor mean‖h‖² makes it independent of the features' scale.
        adjustment: (scenes,) added to the logits, see :func:`training.filterloss.logit_adjustment`.
        loss: ℓ; cross-entropy makes the problem convex.
        iterations: of L-BFGS, at most.
        near: where the search starts instead, if something nearer to the optimum is known.

    Returns:
        Heads after 1, 2, 4, 8, … iterations, as many as ``iterations`` leaves room for, and that at the optimum; one that was reached
        earlier than that stands in the remaining places, too.
    """
    rows = np.flatnonzero(weights > 0)
    h = features[rows].astype(np.float64)
    y = labels[rows]
    w = weights[rows].astype(np.float64) / weights[rows].sum()
    shift = np.zeros(len(start.bias)) if adjustment is None else adjustment.astype(np.float64)
    size = float((w[:, None] * h * h).sum()) or 1.0
    # One constant input more is the bias, pulled like a feature of average size.
    constant = np.sqrt(size / h.shape[1])
    h = np.hstack([h, np.full((len(h), 1), constant)])
    first = _with_bias(start, constant)
    begin = np.zeros(first.size) if near is None else (_with_bias(near, constant) - first).ravel()
    places = [1 << power for power in range(iterations.bit_length()) if 1 << power < iterations]
    passed: list[Array] = []

    def objective(flat: Array) -> tuple[float, Array]:
        change = flat.reshape(first.shape)
        losses, slopes = loss.with_slopes(log_softmax(h @ (first + change).T + shift, axis=1), y)
        value = (w * losses).sum() + pull * size / 2 * (change**2).sum()
        return float(value), ((slopes * w[:, None]).T @ h + pull * size * change).ravel()

    with one_thread():
        found = minimize(
            objective,
            begin,
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": iterations},
            callback=lambda flat: passed.append(flat.copy()),
        )

    def head(flat: Array) -> Head:
        fitted = first + flat.reshape(first.shape)
        return Head(weight=fitted[:, :-1], bias=fitted[:, -1] * constant)

    return [*(head(passed[place - 1] if place <= len(passed) else found.x) for place in places), head(found.x)]


def _with_bias(head: Head, constant: float) -> Array:
    """(scenes, d + 1): the bias as the weight of an input that is always ``constant``."""
    return np.hstack([head.weight, head.bias[:, None] / constant])
