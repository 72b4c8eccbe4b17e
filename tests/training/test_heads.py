from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax

from tests.training.made import network
from training.heads import Head, HeadProblem, fit_head, head_path
from training.losses import CROSS_ENTROPY, Loss

N, D, SCENES = 40, 6, 3


def made(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, Head]:
    rng = np.random.default_rng(seed)
    head = Head(weight=rng.normal(size=(SCENES, D)), bias=rng.normal(size=SCENES))
    return rng.normal(size=(N, D)), rng.integers(0, SCENES, N), rng.random(N) + 0.01, head


def objective(
    head: Head, features: np.ndarray, labels: np.ndarray, weights: np.ndarray, start: Head, pull: float
) -> float:
    """What :func:`fit_head` says that it makes smallest, written down once more."""
    share = weights / weights.sum()
    losses = -log_softmax(head.logits(features), axis=1)[np.arange(len(labels)), labels]
    size = (share[:, None] * features**2).sum()
    constant = size / features.shape[1]
    away = ((head.weight - start.weight) ** 2).sum() + ((head.bias - start.bias) ** 2).sum() / constant
    return float((share * losses).sum() + pull * size / 2 * away)


@settings(max_examples=20)
@given(st.integers(0, 999), st.sampled_from([1e-3, 1e-1]))
def test_no_head_nearby_is_better(seed: int, pull: float) -> None:
    features, labels, weights, start = made(seed)
    fitted = fit_head(features, labels, weights, start=start, pull=pull, iterations=1000)
    best = objective(fitted, features, labels, weights, start, pull)
    rng = np.random.default_rng(seed)
    for size in (1e-2, 1e-1, 1.0):
        other = Head(
            weight=fitted.weight + size * rng.normal(size=fitted.weight.shape),
            bias=fitted.bias + size * rng.normal(size=SCENES),
        )
        assert objective(other, features, labels, weights, start, pull) > best
    assert best <= objective(start, features, labels, weights, start, pull)


def test_a_strong_pull_leaves_the_head_where_it_was_and_a_weak_one_learns() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(N) % SCENES
    features = np.eye(D)[labels] + rng.normal(0, 0.1, (N, D))
    start = Head(weight=np.zeros((SCENES, D)), bias=np.zeros(SCENES))
    held = fit_head(features, labels, np.ones(N), start=start, pull=1e6)
    free = fit_head(features, labels, np.ones(N), start=start, pull=1e-5)
    assert np.abs(held.weight).max() < 1e-5
    assert (free.logits(features).argmax(1) == labels).all()


def test_a_weight_of_zero_is_a_window_that_is_not_there_and_of_two_one_that_is_there_twice() -> None:
    features, labels, weights, start = made(3)
    weights = np.ones(N)
    weights[:5], weights[5] = 0, 2
    one = fit_head(features, labels, weights, start=start, pull=1e-2)
    rows = np.r_[5, 5:N]
    other = fit_head(features[rows], labels[rows], np.ones(len(rows)), start=start, pull=1e-2)
    np.testing.assert_allclose(one.weight, other.weight, atol=1e-4)
    np.testing.assert_allclose(one.bias, other.bias, atol=1e-4)


@given(st.floats(0.01, 100))
@settings(max_examples=10)
def test_the_scale_of_the_weights_changes_nothing(factor: float) -> None:
    features, labels, weights, start = made(4)
    one = fit_head(features, labels, weights, start=start, pull=1e-2)
    other = fit_head(features, labels, factor * weights, start=start, pull=1e-2)
    np.testing.assert_allclose(one.weight, other.weight, atol=1e-5)


def test_an_adjusted_head_need_not_learn_that_a_common_scene_is_common() -> None:
    """Features that say nothing: all that can be learned is how common scenes are, and the adjustment has said it already."""
    labels = np.repeat([0, 1], [36, 4])
    features, start = np.ones((N, D)), Head(weight=np.zeros((2, D)), bias=np.zeros(2))
    shares = np.log(np.array([0.9, 0.1]))
    plain = fit_head(features, labels, np.ones(N), start=start, pull=1e-6).logits(features[:1])[0]
    adjusted = fit_head(features, labels, np.ones(N), start=start, pull=1e-6, adjustment=shares).logits(features[:1])[0]
    assert plain[0] - plain[1] == pytest.approx(np.log(9), abs=0.05)
    assert adjusted[0] - adjusted[1] == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("loss", [CROSS_ENTROPY, Loss(kind="focal"), Loss(kind="generalised"), Loss(smoothing=0.1)])
def test_every_loss_is_fitted_downhill(loss: Loss) -> None:
    features, labels, weights, start = made(5)
    fitted = fit_head(features, labels, weights, start=start, pull=1e-4, loss=loss)

    def mean(head: Head) -> float:
        losses, _ = loss.with_slopes(log_softmax(head.logits(features), axis=1), labels)
        return float((weights * losses).sum() / weights.sum())

    assert mean(fitted) < mean(start)


def test_the_head_of_a_network_says_what_the_network_says() -> None:
    net = network()
    features = torch.randn(4, net.backbone.fc.in_features, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = net.backbone.fc(features)
    np.testing.assert_allclose(Head.of(net).logits(features.numpy()), expected.numpy(), rtol=1e-4, atol=1e-5)


def test_a_path_leads_from_the_start_to_the_optimum() -> None:
    """Each head is the one that a search of so many iterations ends at."""
    features, labels, weights, start = made(3)
    path = head_path(features, labels, weights, start=start, pull=1e-3, iterations=20)
    assert len(path) == len([1, 2, 4, 8, 16, 20])
    for iterations, head in zip([1, 2, 4, 8, 16, 20], path, strict=True):
        alone = fit_head(features, labels, weights, start=start, pull=1e-3, iterations=iterations)
        np.testing.assert_array_equal(head.weight, alone.weight)
        np.testing.assert_array_equal(head.bias, alone.bias)
    values = [objective(head, features, labels, weights, start, 1e-3) for head in (start, *path)]
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("pull", [1e-2, 1e-5])
def test_newtons_method_ends_at_the_optimum_wherever_it_begins(pull: float) -> None:
    """And what pulls is the original's head all the same."""
    features, labels, weights, start = made(3)
    problem = HeadProblem.of(features, labels, weights, start=start, pull=pull)
    far = Head(weight=start.weight + 3, bias=start.bias - 3)
    found = [problem.optimum(near) for near in (None, far)]
    assert np.abs(found[0] - found[1]).max() < 5e-2 * np.abs(found[0]).max()
    slow = fit_head(features, labels, weights, start=start, pull=pull, iterations=5000)
    best = objective(slow, features, labels, weights, start, pull)
    for each in found:
        reached = objective(problem.head(each), features, labels, weights, start, pull)
        assert reached == pytest.approx(best, abs=1e-6)
        assert reached == pytest.approx(problem.objective(each)[0])


def test_the_curvature_is_how_the_slope_changes() -> None:
    features, labels, weights, start = made(4)
    problem = HeadProblem.of(features, labels, weights, start=start, pull=1e-3)
    rng = np.random.default_rng(1)
    at, step = rng.normal(0, 0.1, (2, problem.origin.size))
    change = (problem.objective(at + 1e-5 * step)[1] - problem.objective(at - 1e-5 * step)[1]) / 2e-5
    np.testing.assert_allclose(problem.curvature(at) @ step, change, rtol=1e-4, atol=1e-7)


def test_a_search_that_ends_early_stands_in_the_remaining_places() -> None:
    features, labels, weights, start = made(3)
    path = head_path(features, labels, weights, start=start, pull=1e6, iterations=1000)
    assert len(path) == 11
    np.testing.assert_array_equal(path[-2].weight, path[-1].weight)
