from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax
from torch.nn import functional

from training.losses import CROSS_ENTROPY, Loss

LOSSES = (
    CROSS_ENTROPY, Loss(smoothing=0.1), Loss(kind="focal"), Loss(kind="focal", focus=1.0), Loss(kind="generalised"),
    Loss(kind="generalised", robustness=0.3, smoothing=0.2),
)  # fmt: skip


@given(seed=st.integers(0, 10_000), which=st.sampled_from(LOSSES), size=st.floats(0.1, 8))
def test_both_ways_to_say_it_agree_and_the_slope_is_that_of_autograd(seed: int, which: Loss, size: float) -> None:
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(0, size, (7, 4)), rng.integers(0, 4, 7)
    tensor = torch.tensor(logits, requires_grad=True)
    losses = which.of(tensor, torch.from_numpy(labels))
    values, slopes = which.with_slopes(log_softmax(logits, axis=1), labels)
    np.testing.assert_allclose(values, losses.detach().numpy(), atol=1e-9)
    losses.sum().backward()  # type: ignore[no-untyped-call]
    np.testing.assert_allclose(slopes, tensor.grad, atol=1e-7)


def test_they_are_what_torch_and_torchvision_have() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(20, 5), torch.randint(0, 5, (20,))
    torch.testing.assert_close(
        CROSS_ENTROPY.of(logits, labels), functional.cross_entropy(logits, labels, reduction="none")
    )
    smooth = functional.cross_entropy(logits, labels, reduction="none", label_smoothing=0.1)
    torch.testing.assert_close(Loss(smoothing=0.1).of(logits, labels), smooth)
    p = torch.softmax(logits, 1).gather(1, labels[:, None])[:, 0]
    torch.testing.assert_close(Loss(kind="focal").of(logits, labels), (1 - p) ** 2 * -p.log())


def test_the_generalised_loss_is_bounded_and_cross_entropy_is_not() -> None:
    """What makes it robust: one wrong label costs no more than 1 / q, however sure the model is of another scene."""
    sure = torch.tensor([[30.0, -30.0]])
    wrong = torch.tensor([1])
    assert Loss(kind="generalised").of(sure, wrong).item() == pytest.approx(1 / 0.7)
    assert CROSS_ENTROPY.of(sure, wrong).item() == pytest.approx(60)
