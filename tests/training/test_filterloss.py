from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from training.filterloss import correction, filter_loss, label_margins, logit_adjustment, weighted_sum

SIZES = st.integers(1, 12)


def draw(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 4, (n,), generator=generator)
    return logits, labels, torch.rand(n, generator=generator, dtype=torch.float64) + 0.01


@given(SIZES, st.integers(0, 999))
def test_equal_weights_are_cross_entropy(n: int, seed: int) -> None:
    logits, labels, _ = draw(n, seed)
    torch.testing.assert_close(
        filter_loss(logits, labels, torch.full((n,), 0.3, dtype=torch.float64)),
        functional.cross_entropy(logits, labels),
    )


@given(SIZES, st.integers(0, 999), st.floats(0.01, 100))
def test_scaling_all_weights_changes_nothing(n: int, seed: int, factor: float) -> None:
    logits, labels, weights = draw(n, seed)
    torch.testing.assert_close(filter_loss(logits, labels, weights), filter_loss(logits, labels, factor * weights))


@given(SIZES, st.integers(0, 999))
def test_a_weight_of_zero_gives_no_gradient(n: int, seed: int) -> None:
    logits, labels, weights = draw(n + 1, seed)
    weights[0] = 0
    filter_loss(logits, labels, weights).backward()
    assert logits.grad is not None
    assert (logits.grad[0] == 0).all()
    assert (logits.grad[1:] != 0).any()


@given(SIZES, st.integers(0, 999))
def test_a_weight_of_two_is_the_window_twice(n: int, seed: int) -> None:
    logits, labels, _ = draw(n, seed)
    weights = torch.ones(n, dtype=torch.float64)
    weights[0] = 2
    repeated = filter_loss(
        torch.cat([logits, logits[:1]]), torch.cat([labels, labels[:1]]), torch.ones(n + 1, dtype=torch.float64)
    )
    torch.testing.assert_close(filter_loss(logits, labels, weights), repeated)


@given(st.integers(2, 12), st.integers(0, 999), st.data())
def test_however_a_step_is_cut_up(n: int, seed: int, data: st.DataObject) -> None:
    logits, labels, weights = draw(n, seed)
    cut = data.draw(st.integers(1, n - 1))
    parts = [weighted_sum(logits[s], labels[s], weights[s]) for s in (slice(None, cut), slice(cut, None))]
    together = sum(part[0] for part in parts) / sum(part[1] for part in parts)
    torch.testing.assert_close(together, filter_loss(logits, labels, weights))


def test_a_silenced_window_may_be_infinitely_wrong() -> None:
    logits = torch.tensor([[math.inf, 0.0], [0.0, 0.0]])
    loss = filter_loss(logits, torch.tensor([1, 0]), torch.tensor([0.0, 1.0]))
    assert loss.item() == pytest.approx(math.log(2))


def test_the_adjustment_counts_weights() -> None:
    labels, weights = torch.tensor([0, 0, 0, 1]), torch.tensor([1.0, 1.0, 0.0, 2.0])
    torch.testing.assert_close(logit_adjustment(labels, weights, 2), torch.tensor([0.5, 0.5]).log())


def test_margins_grow_with_rarity_and_count_weights() -> None:
    """By the fourth root of what the scenes' windows weigh: 16 windows of the first weigh as much as 16 of the rarest, one of the last."""
    labels = torch.tensor([0] * 16 + [1] * 32 + [2])
    weights = torch.tensor([1.0] * 16 + [0.5] * 32 + [1.0])
    torch.testing.assert_close(label_margins(labels, weights, 3, largest=2.0), torch.tensor([1.0, 1.0, 2.0]))
    torch.testing.assert_close(label_margins(labels, 10 * weights, 3, largest=2.0), torch.tensor([1.0, 1.0, 2.0]))


def test_a_scene_without_weight_has_no_margin_and_gives_the_others_none() -> None:
    labels, weights = torch.tensor([0] * 16 + [1] + [2]), torch.tensor([1.0] * 17 + [0.0])
    torch.testing.assert_close(label_margins(labels, weights, 4, largest=2.0), torch.tensor([1.0, 2.0, 0.0, 0.0]))


def test_with_margins_a_scene_without_weight_hardly_competes() -> None:
    """So what the original knew of it stays, as with logit adjustment: half a window's share, held against the commonest scene's."""
    rows = correction(torch.tensor([0] * 16 + [1] * 4), torch.ones(20), 3, kind="margins", margin=2.0)
    torch.testing.assert_close(rows[:, 2], torch.full((3,), math.log(0.5 / 16)))
    torch.testing.assert_close(rows[:2, :2], torch.tensor([[-2.0 * 0.25**0.25, 0.0], [0.0, -2.0]]))


def test_a_margin_is_taken_from_the_label_alone() -> None:
    """Cao et al., 2019, equation 10: −log exp(z_y − Δ_y) / (exp(z_y − Δ_y) + Σ exp(z_j))."""
    logits, labels = torch.tensor([[1.0, 0.0, -1.0], [0.5, 2.0, 0.0]]), torch.tensor([0, 2])
    rows = correction(torch.tensor([0] * 16 + [1] * 16 + [2]), torch.ones(33), 3, kind="margins", margin=2.0)
    found = filter_loss(logits, labels, torch.ones(2), adjustment=rows[labels])
    shifted = [math.exp(1.0 - 1.0), math.exp(0.0 - 2.0)]
    others = [math.exp(0.0) + math.exp(-1.0), math.exp(0.5) + math.exp(2.0)]
    losses = [-math.log(own / (own + rest)) for own, rest in zip(shifted, others, strict=True)]
    assert found.item() == pytest.approx(sum(losses) / 2, rel=1e-6)


def test_logit_adjustment_is_the_same_for_every_label() -> None:
    labels, weights = torch.tensor([0, 0, 0, 1]), torch.tensor([1.0, 1.0, 0.0, 2.0])
    rows = correction(labels, weights, 2, kind="logit-adjustment", margin=3.0)
    torch.testing.assert_close(rows, logit_adjustment(labels, weights, 2).repeat(2, 1))
