"""What a window's loss is, given the probability of its label: cross-entropy, and what is used instead where labels are rare or wrong.

Each is a function of log p(label), with its slope, so that a head is fitted and a network trained by the same words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Kind = Literal["cross_entropy", "focal", "generalised"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Loss:
    """A loss of one window."""

    kind: Kind = "cross_entropy"
    """``focal``: (1 − p)^γ · −log p (Lin et al., 2017); ``generalised``: (1 − p^q) / q (Zhang & Sabuncu, 2018)."""
    focus: float = 2.0
    """γ of the focal loss: how much less a window counts that is right already."""
    robustness: float = 0.7
    """q of the generalised cross-entropy: 0 is cross-entropy, 1 the absolute error."""
    smoothing: float = 0.0
    """Share of the label that is spread over all scenes (Szegedy et al., 2016)."""

    def of(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(n,) losses of (n, scenes) logits."""
        log_p = logits.log_softmax(1)
        losses: Tensor = self._values(log_p.gather(1, labels[:, None])[:, 0])
        if self.smoothing:
            losses = (1 - self.smoothing) * losses - self.smoothing * log_p.mean(1)
        return losses

    def with_slopes(
        self, log_p: NDArray[np.float64], labels: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(n,) losses of (n, scenes) log-probabilities, and (n, scenes) their slopes by the logits."""
        at = (np.arange(len(labels)), labels)
        given = log_p[at]
        p = np.exp(log_p)
        slopes = p.copy()
        slopes[at] -= 1
        slopes *= self._steepness(given)[:, None]
        losses = self._values(given)
        if self.smoothing:
            losses = (1 - self.smoothing) * losses - self.smoothing * log_p.mean(1)
            slopes = (1 - self.smoothing) * slopes + self.smoothing * (p - 1 / log_p.shape[1])
        return losses, slopes

    def _values(self, log_p: Any) -> Any:
        """Of an array or a tensor alike."""
        if self.kind == "focal":
            return -log_p * (1 - _exp(log_p)) ** self.focus
        if self.kind == "generalised":
            return (1 - _exp(self.robustness * log_p)) / self.robustness
        return -log_p

    def _steepness(self, log_p: NDArray[np.float64]) -> NDArray[np.float64]:
        """−d loss / d log p: what the slope of cross-entropy is multiplied with."""
        if self.kind == "focal":
            p = np.exp(log_p)
            steep: NDArray[np.float64] = (1 - p) ** self.focus - self.focus * p * (1 - p) ** (self.focus - 1) * log_p
            return steep
        if self.kind == "generalised":
            return np.asarray(np.exp(self.robustness * log_p), np.float64)
        return np.ones_like(log_p)


CROSS_ENTROPY = Loss()


def _exp(values: Any) -> Any:
    return np.exp(values) if isinstance(values, np.ndarray) else values.exp()
