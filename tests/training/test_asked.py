from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training import asked as module
from training.asked import as_many_of_each, as_they_come


def test_of_very_many_windows_each_scene_has_as_many_to_ask_as_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ASKED", 30)
    labels = np.repeat([0, 1, 2], [100, 50, 4])
    asked = as_many_of_each(np.arange(10, 154), labels, 0)
    assert np.bincount(labels[asked]).tolist() == [13, 13, 4]
    assert (np.diff(asked) > 0).all()
    assert asked.min() >= 10
    np.testing.assert_array_equal(as_many_of_each(np.arange(30), labels, 0), np.arange(30))


def test_what_a_choice_is_made_by_is_as_common_as_it_comes_but_where_it_is_rare(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_ASKED", 100)
    monkeypatch.setattr(module, "_OF_A_SCENE", 10)
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 3], [600, 380, 15, 5]))
    assert np.bincount(labels[as_they_come(labels, 0)]).tolist() == [36, 22, 10, 5]
    assert as_they_come(labels, 0).tolist() == as_they_come(labels, 0).tolist() != as_they_come(labels, 1).tolist()


def test_what_is_to_come_first_does_and_takes_no_more_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ASKED", 100)
    monkeypatch.setattr(module, "_OF_A_SCENE", 10)
    labels, rng = np.repeat([0, 1], [600, 400]), np.random.default_rng(0)
    few, many = rng.random(1000) < 0.01, rng.random(1000) < 0.9
    assert few.sum() < 20
    assert few[as_they_come(labels, 0, first=few)].sum() == few.sum()
    for first in (few, many):
        assert np.bincount(labels[as_they_come(labels, 0, first=first)]).tolist() == [48, 32]


@given(st.lists(st.integers(0, 400), min_size=1, max_size=60), st.integers(0, 5))
def test_no_more_are_asked_than_may_be(sizes: list[int], seed: int) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_ASKED", 200)
        patch.setattr(module, "_OF_A_SCENE", 10)
        rows = as_they_come(labels, seed)
    assert len(rows) == len(labels) <= 200 or len(rows) <= 200
    assert set(labels[rows]) == set(labels), "of every scene some"
    assert (np.diff(rows) > 0).all()


@given(st.lists(st.integers(0, 3), max_size=60), st.integers(0, 5))
def test_few_windows_are_all_asked(labels: list[int], seed: int) -> None:
    given_labels = np.array(labels, np.int64)
    np.testing.assert_array_equal(as_they_come(given_labels, seed), np.arange(len(labels)))
    np.testing.assert_array_equal(as_many_of_each(np.arange(len(labels)), given_labels, seed), np.arange(len(labels)))
