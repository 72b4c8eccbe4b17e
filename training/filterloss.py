"""FilterLoss: L = Σ w(i)·ℓ(i) / Σ w(i) over the whole optimizer step, optionally corrected for imbalance.

The correction is logit adjustment (Menon et al., 2021, "Long-tail learning via logit adjustment"): while training, the
logarithm of a scene's share is added to its logit, so that the model need not learn that common scenes are common. Or it is a
margin by scene size (LDAM: Cao et al., 2019, "Learning imbalanced datasets with label-distribution-aware margin loss"): while
training, a window's own logit is lowered, the more the rarer its scene, so that a rare scene is recognised with room to spare.
Both go by the *weighted* counts: a distrusted window counts for its scene as little as it counts for the loss.
"""

from __future__ import annotations

import torch
from torch import Tensor

from training.losses import CROSS_ENTROPY, Loss
from training.settings import Correction


def weighted_sum(
    logits: Tensor, labels: Tensor, weights: Tensor, *, adjustment: Tensor | None = None, loss: Loss = CROSS_ENTROPY
) -> tuple[Tensor, Tensor]:
    """Σ w·ℓ and Σ w of a part of a step; the parts' sums, divided once, are the step's loss however it is cut up.

    Args:
        logits: (n, scenes).
        labels: (n,) int64.
        weights: (n,) not negative.
        adjustment: (scenes,) or (n, scenes) added to the logits, see :func:`correction`.
        loss: ℓ, of a window.

    Returns:
        Two scalars; the second has no gradient.
    """
    if adjustment is not None:
        logits = logits + adjustment
    losses = loss.of(logits, labels)
    # A weight of zero must also silence a loss that is infinite: 0 × inf would be NaN.
    return torch.where(weights > 0, losses * weights, 0.0).sum(), weights.sum()


def filter_loss(
    logits: Tensor, labels: Tensor, weights: Tensor, *, adjustment: Tensor | None = None, loss: Loss = CROSS_ENTROPY
) -> Tensor:
    """Σ w·ℓ / Σ w of a whole step, as a scalar; 0 where all weights are 0.

    With equal weights it is cross-entropy; scaling all weights changes nothing.
    """
    summed, total = weighted_sum(logits, labels, weights, adjustment=adjustment, loss=loss)
    return summed / total.clamp(min=torch.finfo(total.dtype).tiny)


def logit_adjustment(labels: Tensor, weights: Tensor, scenes: int) -> Tensor:
    """(scenes,) the logarithm of each scene's share of the total weight.

    A scene without weight gets the share of half a window: while training it then competes with the others hardly at all,
    and what the original model knew about it stays as it was.

    Args:
        labels: (n,) int64.
        weights: (n,) not negative.
        scenes: number of scenes.
    """
    counts = _counts(labels, weights, scenes)
    return (counts / counts.sum()).log()


def label_margins(labels: Tensor, weights: Tensor, scenes: int, *, largest: float) -> Tensor:
    """(scenes,) by how much the logit of a window's own scene is lowered: as the fourth root of its weighted count falls.

    Args:
        labels: (n,) int64.
        weights: (n,) not negative.
        scenes: number of scenes.
        largest: margin, in logits, of the rarest of the scenes that have weight; of those without, 0.
    """
    counts, there = _counts(labels, weights, scenes), _there(labels, weights, scenes)
    return torch.where(there, largest * (counts[there].min() / counts).pow(0.25), 0.0)


def correction(labels: Tensor, weights: Tensor, scenes: int, *, kind: Correction, margin: float) -> Tensor:
    """(scenes, scenes) what is added to the logits of a window: the row of its label.

    With margins, a scene without weight is lowered for all windows as by :func:`logit_adjustment`, relative to the commonest scene, so
    that what the original model knew about it stays as it was.

    Args:
        labels: (n,) int64, some with weight.
        weights: (n,) not negative.
        scenes: number of scenes.
        kind: which correction.
        margin: the largest, in logits, where it is by margins.
    """
    shift = logit_adjustment(labels, weights, scenes)
    if kind == "margins":
        absent = torch.where(_there(labels, weights, scenes), 0.0, shift - shift.max())
        return absent - torch.diag(label_margins(labels, weights, scenes, largest=margin))
    return shift.expand(scenes, scenes)


def _there(labels: Tensor, weights: Tensor, scenes: int) -> Tensor:
    """(scenes,) whether any window of the scene has weight."""
    return torch.bincount(labels.cpu()[weights.cpu() > 0], minlength=scenes) > 0


def _counts(labels: Tensor, weights: Tensor, scenes: int) -> Tensor:
    """(scenes,) weighted counts in units of windows, whatever the scale of the weights, half a one at least."""
    counts = torch.zeros(scenes, dtype=weights.dtype).index_add_(0, labels.cpu(), weights.cpu())
    counts = counts * (len(labels) / weights.sum().cpu().clamp(min=torch.finfo(weights.dtype).tiny))
    return counts.clamp(min=0.5)
