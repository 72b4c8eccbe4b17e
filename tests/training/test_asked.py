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
    assert np.bincount(labels[as_they_come(labels, 0)]).tolist() == [60, 38, 10, 5]
    known = labels == 3
    assert np.isin(np.flatnonzero(labels == 0)[:50], as_they_come(labels, 0, always=labels == 0)).all()
    assert np.bincount(labels[as_they_come(labels, 0, always=known)]).tolist() == [60, 38, 10, 5]
    assert as_they_come(labels, 0).tolist() == as_they_come(labels, 0).tolist() != as_they_come(labels, 1).tolist()


@given(st.lists(st.integers(0, 3), max_size=60), st.integers(0, 5))
def test_few_windows_are_all_asked(labels: list[int], seed: int) -> None:
    given_labels = np.array(labels, np.int64)
    np.testing.assert_array_equal(as_they_come(given_labels, seed), np.arange(len(labels)))
    np.testing.assert_array_equal(as_many_of_each(np.arange(len(labels)), given_labels, seed), np.arange(len(labels)))
