from __future__ import annotations

import json
import math
import warnings

import numpy as np
import pytest
import sklearn.metrics
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.classification import multiclass_f1_score

from training.evaluation import (
    Evaluation,
    accuracy_interval,
    confusion_matrix,
    evaluate,
    f1_scores,
    recalls,
    recovery_ratio,
)

NAMES = ("Bike", "Run", "Still", "Walk")


@st.composite
def answers(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Truth and prediction; not every scene need occur in either."""
    count = draw(st.integers(1, 40))
    scenes = st.lists(st.integers(0, len(NAMES) - 1), min_size=count, max_size=count)
    return np.array(draw(scenes), np.int64), np.array(draw(scenes), np.int64)


@given(answers())
def test_the_figures_are_scikit_learns(pair: tuple[np.ndarray, np.ndarray]) -> None:
    truth, predicted = pair
    found = evaluate(truth, predicted, NAMES)
    occurring = np.unique(truth)
    np.testing.assert_array_equal(found.confusion, sklearn.metrics.confusion_matrix(truth, predicted, labels=range(4)))
    assert found.accuracy == pytest.approx(sklearn.metrics.accuracy_score(truth, predicted))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn, on scenes that are predicted and never true
        assert found.balanced_accuracy == pytest.approx(sklearn.metrics.balanced_accuracy_score(truth, predicted))
    f1 = sklearn.metrics.f1_score(truth, predicted, labels=occurring, average="macro", zero_division=0)
    assert found.macro_f1 == pytest.approx(f1)
    recall = sklearn.metrics.recall_score(truth, predicted, labels=occurring, average=None, zero_division=0)
    np.testing.assert_allclose([found.recall[NAMES[scene]] for scene in occurring], recall)
    assert all(math.isnan(found.recall[name]) for at, name in enumerate(NAMES) if at not in occurring)


@given(answers())
def test_f1_is_torchmetrics_where_the_scene_occurs(pair: tuple[np.ndarray, np.ndarray]) -> None:
    truth, predicted = pair
    ours = f1_scores(confusion_matrix(truth, predicted, 4))
    theirs = multiclass_f1_score(torch.from_numpy(predicted), torch.from_numpy(truth), 4, average="none").numpy()
    occurs = np.isin(range(4), truth)
    np.testing.assert_allclose(ours[occurs], theirs[occurs], atol=1e-6)
    assert np.isnan(ours[~occurs]).all()


@given(answers(), st.integers(0, 3))
def test_it_is_json_and_back(pair: tuple[np.ndarray, np.ndarray], people: int) -> None:
    truth, predicted = pair
    subjects = np.arange(len(truth)) % people if people else None
    found = evaluate(truth, predicted, NAMES, subjects=subjects)
    text = json.dumps(found.to_json(), allow_nan=False)
    back = Evaluation.from_json(json.loads(text))
    for name in Evaluation.__slots__:
        np.testing.assert_equal(getattr(back, name), getattr(found, name))
    assert all(math.isfinite(value) for value in found.metrics().values())
    assert ("accuracy_low" in found.metrics()) == (people >= 2 and len(truth) >= 2)


@given(answers(), st.integers(2, 6), st.integers(0, 9))
def test_the_interval_is_around_the_accuracy_and_the_same_again(
    pair: tuple[np.ndarray, np.ndarray], people: int, seed: int
) -> None:
    right = pair[0] == pair[1]
    subjects = np.arange(len(right)) % people
    low, high = accuracy_interval(right, subjects, seed=seed)
    if len(set(subjects.tolist())) < 2:
        assert math.isnan(low)
        assert math.isnan(high)
        return
    means = [right[subjects == person].mean() for person in set(subjects.tolist())]
    assert min(means) - 1e-12 <= low <= high <= max(means) + 1e-12
    assert (low, high) == accuracy_interval(right, subjects, seed=seed)


def test_an_interval_over_people_is_wider_than_one_over_windows() -> None:
    """Two people always right and two always wrong: over windows it would be 0.5 ± 0.05."""
    subjects = np.repeat(["a", "b", "c", "d"], 100)
    low, high = accuracy_interval(np.isin(subjects, ["a", "b"]), subjects)
    assert (low, high) == (0.0, 1.0)


def test_nothing_to_compare_is_undefined() -> None:
    nothing = np.array([], np.int64)
    found = evaluate(nothing, nothing, NAMES, subjects=nothing)
    assert found.windows == 0
    assert math.isnan(found.accuracy)
    assert math.isnan(found.macro_f1)
    assert found.metrics() == {}
    np.testing.assert_equal(Evaluation.from_json(found.to_json()).interval, (math.nan, math.nan))


def test_a_scene_that_is_never_right_counts_as_zero_and_one_that_does_not_occur_not_at_all() -> None:
    confusion = confusion_matrix(np.array([0, 0, 1]), np.array([0, 0, 2]), 4)
    np.testing.assert_equal(recalls(confusion), [1.0, 0.0, np.nan, np.nan])
    np.testing.assert_equal(f1_scores(confusion), [1.0, 0.0, np.nan, np.nan])


@pytest.mark.parametrize(("target", "source", "ratio"), [(0.6, 0.8, 0.75), (0.9, 0.8, 1.125), (0.0, 0.5, 0.0)])
def test_recovery(target: float, source: float, ratio: float) -> None:
    assert recovery_ratio(target, source) == pytest.approx(ratio)
    assert math.isnan(recovery_ratio(target, 0.0))
