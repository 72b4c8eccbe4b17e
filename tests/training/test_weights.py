from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from training.heads import Head
from training.settings import QualitySettings
from training.weights import (
    TierWeights,
    choose_weights,
    effective_size,
    held_out_logits,
    tiers_of,
    weighted_balanced_accuracy,
)

D, SCENES = 6, 3
START = Head(weight=np.zeros((SCENES, D)), bias=np.zeros(SCENES))


def separable(people: int = 6, each: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features that show the scene plainly, scenes, and people."""
    rng = np.random.default_rng(seed)
    scenes = np.tile(np.repeat(np.arange(SCENES), each), people)
    features = 2 * np.eye(D)[scenes] + rng.normal(0, 0.3, (len(scenes), D))
    return features, scenes, np.repeat(np.arange(people), each * SCENES)


@given(
    arrays(np.float64, 20, elements=st.floats(0, 1)),
    st.lists(st.floats(0.01, 0.99), min_size=1, max_size=4, unique=True),
)
def test_a_higher_score_is_never_in_a_lower_tier(score: np.ndarray, thresholds: list[float]) -> None:
    tiers = tiers_of(score, sorted(thresholds))
    assert (np.diff(tiers[np.argsort(score)]) >= 0).all()
    assert ((tiers >= 0) & (tiers <= len(thresholds))).all()


@given(arrays(np.float64, 20, elements=st.floats(0.001, 1)), st.floats(0.01, 100))
def test_the_effective_size_is_between_one_and_all_whatever_the_scale(weights: np.ndarray, factor: float) -> None:
    assert 1 - 1e-9 <= effective_size(weights) <= len(weights) + 1e-9
    assert effective_size(factor * weights) == pytest.approx(effective_size(weights))


def test_each_tier_gets_its_weight() -> None:
    chosen = TierWeights(weights=(0.05, 0.5, 1.0), validation=0.9, tried=16)
    assert chosen.of(np.array([2, 0, 1, 2])).tolist() == [1.0, 0.05, 0.5, 1.0]


def test_balanced_accuracy_counts_scenes_alike_and_windows_by_weight() -> None:
    labels, predicted = np.array([0, 0, 0, 0, 1, 1]), np.array([0, 0, 0, 1, 1, 0])
    assert weighted_balanced_accuracy(labels, predicted, np.ones(6)) == pytest.approx((0.75 + 0.5) / 2)
    assert weighted_balanced_accuracy(labels, predicted, np.array([1, 1, 1, 0, 1, 0.0])) == 1
    assert weighted_balanced_accuracy(labels, predicted, np.array([1, 1, 1, 1, 0, 0.0])) == 0.75, (
        "a scene nobody believes is left out"
    )
    assert weighted_balanced_accuracy(labels, predicted, np.zeros(6)) == 0


def test_nobody_is_judged_by_a_head_that_has_seen_him() -> None:
    """Person 0 alone is labelled by another rule: only a head that has learned from him could know it."""
    features, scenes, people = separable()
    labels = np.where(people == 0, (scenes + 1) % SCENES, scenes)
    ones = np.ones(len(labels))
    apart = held_out_logits(features, labels, ones, people, head=START, pull=1e-3, adjust=True).argmax(1)
    assert (apart[people == 0] == scenes[people == 0]).all()
    together = held_out_logits(features, labels, ones, np.zeros_like(people), head=START, pull=1e-3, adjust=True)
    assert together.shape == (len(labels), SCENES)


def test_weights_rise_with_trust_stay_above_the_floor_and_are_one_where_nothing_is_wrong() -> None:
    features, scenes, people = separable()
    settings = QualitySettings(floor=0.1)
    score = np.tile([0.9, 0.5, 0.1], len(scenes) // 3)
    clean = choose_weights(features, scenes, people, score, np.ones(len(scenes)), head=START, settings=settings)
    assert clean.weights == (1.0, 1.0, 1.0), "of equals, the mildest"
    rng = np.random.default_rng(1)
    wrong = rng.random(len(scenes)) < 0.45
    labels = np.where(wrong, (scenes + 1) % SCENES, scenes)
    told = np.where(wrong, 0.1, 0.9)
    chosen = choose_weights(features, labels, people, told, np.where(wrong, 0.05, 0.95), head=START, settings=settings)
    assert list(chosen.weights) == sorted(chosen.weights)
    assert chosen.weights[0] < 1
    assert min(chosen.weights) >= settings.floor
    assert chosen.weights[-1] == 1
