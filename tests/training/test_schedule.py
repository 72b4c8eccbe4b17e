from __future__ import annotations

import numpy as np
import pytest

from training.schedule import epochs_of, one_cycle
from training.settings import FineTuneSettings


def test_passes_are_bounded_by_steps_and_the_rate_goes_up_and_down() -> None:
    settings = FineTuneSettings(epochs=20, max_steps=100, batch=64)
    assert [epochs_of(n, settings) for n in (1, 64 * 5, 64 * 10, 64 * 60, 10**6)] == [20, 20, 10, 1, 1]
    rates = [one_cycle(at / 100) for at in range(101)]
    assert max(rates) == pytest.approx(1)
    assert 0 < rates[0] < 0.1
    assert rates[-1] == pytest.approx(0)
    assert np.argmax(rates) == 20
