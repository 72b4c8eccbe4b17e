"""Models compared on the same draws of people."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from training.choosing import People
from training.weights import weighted_balanced_accuracy

LABELS = np.tile(np.repeat([0, 1], 10), 6)
GROUPS = np.repeat(np.arange(6), 20)


def people(counts: np.ndarray | None = None) -> People:
    return People(LABELS, GROUPS, np.ones(120) if counts is None else counts, seed=0)


@given(
    predicted=arrays(np.int64, 120, elements=st.integers(0, 1)),
    counts=arrays(np.float64, 120, elements=st.floats(0.01, 1)),
)
def test_the_people_as_they_are_come_first(predicted: np.ndarray, counts: np.ndarray) -> None:
    judged = people(counts).judge(predicted)
    assert judged[0] == pytest.approx(weighted_balanced_accuracy(LABELS, predicted, counts))
    assert ((judged >= 0) & (judged <= 1 + 1e-12)).all()


def test_what_is_better_for_one_person_only_is_no_better() -> None:
    """The draws have that person or not: the difference is smaller than its error."""
    base = np.where(np.arange(120) % 10 < 5, 1 - LABELS, LABELS)
    one_person, all_of_them = base.copy(), base.copy()
    one_person[GROUPS == 0] = LABELS[GROUPS == 0]
    one_person[25] = 1 - LABELS[25]
    all_of_them[np.arange(120) % 10 == 0] = LABELS[np.arange(120) % 10 == 0]
    assert people().as_good_as_the_best([people().judge(base), people().judge(one_person)]) == [True, True]
    assert people().as_good_as_the_best([people().judge(base), people().judge(all_of_them)]) == [False, True]
    before, one, everybody = (people().judge(each) for each in (base, one_person, all_of_them))
    assert one[0] > before[0]
    assert [people().better(each, before) for each in (before, one, everybody)] == [False, False, True]
    assert not people().better(before, everybody)


def test_a_draw_without_a_scene_is_judged_by_the_others() -> None:
    labels, groups = np.array([0, 0, 1]), np.array([0, 0, 1])
    judged = People(labels, groups, np.ones(3), seed=0).judge(np.array([0, 1, 1]))
    assert set(np.round(judged, 6)) == {0.5, 0.75, 1.0}


def test_windows_that_count_nothing_judge_nothing() -> None:
    assert not people(np.zeros(120)).judge(LABELS).any()
