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


def test_trainings_that_only_judge_and_the_one_that_is_kept_cost_no_more_than_three() -> None:
    assert [tried_of(passes) for passes in (0, 1, 2, 3, 5, 20)] == [0, 1, 1, 2, 3, 13]
    folds, three_quarters_of_the_people = 4, 0.75
    for kept in range(2, 100):
        assert folds * three_quarters_of_the_people * tried_of(kept) + kept <= 3 * kept
