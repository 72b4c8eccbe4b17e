from __future__ import annotations

import numpy as np
import pytest

from training.schedule import epochs_of, one_cycle, tried_of
from training.settings import FineTuneSettings


def test_passes_are_bounded_by_steps_and_the_rate_goes_up_and_down() -> None:
    settings = FineTuneSettings(epochs=20, max_steps=100, batch=64)
    assert [epochs_of(n, settings) for n in (1, 64 * 5, 64 * 10, 64 * 60, 10**6)] == [20, 20, 10, 1, 1]
    rates = [one_cycle(at / 100) for at in range(101)]
    assert max(rates) == pytest.approx(1)
    assert 0 < rates[0] < 0.1
    assert rates[-1] == pytest.approx(0)
    assert np.argmax(rates) == 20


@pytest.mark.parametrize(("folds", "passes"), [(0, 20), (1, 20), (2, 20), (3, 20), (4, 13), (5, 10), (8, 5), (50, 1)])
def test_trainings_that_only_judge_are_as_long_as_the_one_that_is_kept_or_as_three_in_all_allow(
    folds: int, passes: int
) -> None:
    assert tried_of(20, folds) == passes
    assert [tried_of(each, 4) for each in (0, 1, 2, 3, 5)] == [0, 1, 1, 2, 3]


@pytest.mark.parametrize("folds", [2, 3, 4, 5, 8])
def test_a_fine_tuning_costs_three_trainings_where_these_have_passes_enough(folds: int) -> None:
    for kept in range(folds, 100):
        assert (folds - 1) * tried_of(kept, folds) + kept <= 3 * kept
