"""A linear head on cached features: convex, so it is fitted to its optimum in a fraction of a second, with nothing to schedule.

It stands in for fine-tuning wherever many fits are needed: out-of-fold scores, and the search for weights.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse.linalg import LinearOperator, cg
from scipy.special import log_softmax
from threadpoolctl import ThreadpoolController

from training.losses import CROSS_ENTROPY, Loss
from training.network import SceneNet

Array = NDArray[np.float64]
_BLAS = ThreadpoolController()
_NEWTON_STEPS, _PRODUCTS = 50, 200
_SHARES = tuple(0.5**power for power in range(10))
"""Of a step of Newton's method that are tried: all of it, half of it, …"""
_ENOUGH = 1e-8
"""A step of Newton's method that promises less than half of this of the loss is not made."""


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


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class HeadProblem:
    """Σ w·ℓ / Σ w + pull · mean‖h‖² / 2 · ‖W − W₀‖² (L2-SP: Li et al., 2018, "Explicit inductive bias for transfer learning").

    W₀ is the original's head, and the mean is weighted, too: it makes the pull independent of the features' scale. A bias is the weight of
    one input more, a constant of the features' average size. What is searched for is the change from W₀, in one row.
    """

    inputs: Array
    """(n, d + 1)"""
    labels: NDArray[np.int64]
    """(n,)"""
    shares: Array
    """(n,) of the weight, 1 in all."""
    origin: Array
    """(scenes, d + 1) W₀."""
    size: float
    """mean‖h‖² of the features, without the constant."""
    pull: float
    shift: Array
    """(scenes,) or (n, scenes) added to the logits."""
    loss: Loss = CROSS_ENTROPY

    @classmethod
    def of(
        cls,
        features: NDArray[np.floating],
        labels: NDArray[np.int64],
        weights: NDArray[np.floating],
        *,
        start: Head,
        pull: float,
        adjustment: NDArray[np.floating] | None = None,
        loss: Loss = CROSS_ENTROPY,
    ) -> HeadProblem:
        """The problem of (n, d) features and of weights that are not all 0; for the rest, see :func:`head_path`."""
        h, w = features.astype(np.float64), weights.astype(np.float64) / weights.sum()
        size = float((w[:, None] * h * h).sum()) or 1.0
        constant = np.sqrt(size / h.shape[1])
        return cls(
            inputs=_with_constant(h, constant), labels=labels, shares=w,
            origin=np.hstack([start.weight, start.bias[:, None] / constant]), size=size, pull=pull,
            shift=np.zeros(len(start.bias)) if adjustment is None else adjustment.astype(np.float64), loss=loss,
        )  # fmt: skip

    def log_p(self, change: Array) -> Array:
        """(n, scenes) log-probabilities, adjusted."""
        found: Array = log_softmax(self.inputs @ (self.origin + self._square(change)).T + self.shift, axis=1)
        return found

    def objective(self, change: Array) -> tuple[float, Array]:
        """Its value and its slope by the change."""
        losses, slopes = self.loss.with_slopes(self.log_p(change), self.labels)
        value = (self.shares * losses).sum() + self.pull * self.size / 2 * (change**2).sum()
        slope = (slopes * self.shares[:, None]).T @ self.inputs + self.pull * self.size * self._square(change)
        return float(value), slope.ravel()

    def curvature(self, change: Array) -> LinearOperator:
        """Its second derivative by the change, of cross-entropy: positive definite, as there is a pull."""
        p = np.exp(self.log_p(change))

        def product(step: Array) -> Array:
            step = self._square(step)
            turned = self.inputs @ step.T
            turned = p * (turned - (p * turned).sum(1, keepdims=True))
            curved: Array = ((turned * self.shares[:, None]).T @ self.inputs + self.pull * self.size * step).ravel()
            return curved

        return LinearOperator((self.origin.size, self.origin.size), matvec=product, dtype=np.float64)

    def optimum(self, near: Head | None = None) -> Array:
        """The change at the optimum, of cross-entropy, by Newton's method with conjugate gradients; sooner if a head near it is known.

        With a weak pull, L-BFGS takes two to three times as long and stops farther from it (346 windows, a pull of 0.00001: 1e-7 of the
        loss in place of 1e-10).
        """
        with one_thread():
            change = np.zeros(self.origin.size) if near is None else self.change(near)
            value, slope = self.objective(change)
            for _ in range(_NEWTON_STEPS):
                step = cg(self.curvature(change), -slope, rtol=0.1, maxiter=_PRODUCTS)[0]
                gain = -float(slope @ step)
                if gain < _ENOUGH:
                    break
                for share in _SHARES:
                    reached = self.objective(change + share * step)
                    if reached[0] <= value - 1e-4 * share * gain:
                        break
                else:
                    break  # floating point allows no gain any more
                change, (value, slope) = change + share * step, reached
        return change

    def extended(self, features: NDArray[np.floating]) -> Array:
        """(m, d + 1) inputs of (m, d) features."""
        return _with_constant(features.astype(np.float64), self.inputs[0, -1])

    def head(self, change: Array) -> Head:
        """The head that it makes."""
        fitted = self.origin + self._square(change)
        return Head(weight=fitted[:, :-1], bias=fitted[:, -1] * self.inputs[0, -1])

    def change(self, head: Head) -> Array:
        """What makes this head."""
        found: Array = (np.hstack([head.weight, head.bias[:, None] / self.inputs[0, -1]]) - self.origin).ravel()
        return found

    def _square(self, change: Array) -> Array:
        return change.reshape(self.origin.shape)


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
) -> Head:
    """The last head of :func:`head_path`: the one at the optimum, or where L-BFGS has stopped on its way there."""
    return head_path(
        features, labels, weights,
        start=start, pull=pull, adjustment=adjustment, loss=loss, iterations=iterations,
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
) -> list[Head]:
    """Minimise what :class:`HeadProblem` says, and see the heads on the way.

    Args:
        features: (n, d) cached.
        labels: (n,) scenes.
        weights: (n,) not negative, not all 0.
        start: W₀, the original's head, which it is pulled to, and where the search starts.
        pull: how strongly.
        adjustment: (scenes,) or (n, scenes) added to the logits, see :func:`training.filterloss.correction`.
        loss: ℓ; cross-entropy makes the problem convex.
        iterations: of L-BFGS, at most.

    Returns:
        Heads after 1, 2, 4, 8, … iterations, as many as ``iterations`` leaves room for, and the last; one that was reached
        earlier than that stands in the remaining places, too.
    """
    rows = np.flatnonzero(weights > 0)
    shift = adjustment[rows] if adjustment is not None and adjustment.ndim > 1 else adjustment
    problem = HeadProblem.of(
        features[rows], labels[rows], weights[rows], start=start, pull=pull, adjustment=shift, loss=loss
    )
    places = [1 << power for power in range(iterations.bit_length()) if 1 << power < iterations]
    passed: list[Array] = []
    with one_thread():
        found = minimize(
            problem.objective,
            np.zeros(problem.origin.size),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": iterations},
            callback=lambda flat: passed.append(flat.copy()),
        )
    reached = [passed[place - 1] if place <= len(passed) else found.x for place in places]
    return [problem.head(change) for change in (*reached, found.x)]


def _with_constant(features: Array, constant: float) -> Array:
    return np.hstack([features, np.full((len(features), 1), constant)])
