"""How many epochs a training has, and at which learning rate."""

from __future__ import annotations

import math

from training.settings import FineTuneSettings


def epochs_of(windows: int, settings: FineTuneSettings) -> int:
    """Passes over so many windows: as many as are set, within the steps that are set, but one at least."""
    steps_per_epoch = math.ceil(windows / settings.batch)
    return max(1, min(settings.epochs, settings.max_steps // steps_per_epoch))


def tried_of(passes: int) -> int:
    """Of so many passes, those of a training without some people, which only tells what the one with everybody is worth: two thirds.

    Four folds of three quarters of the people are two trainings then, and with the one that is kept three.
    """
    return max(min(passes, 1), passes * 2 // 3)


def one_cycle(done: float) -> float:
    """Learning rate at a share (0 to 1) of the training, relative to its highest: up within a fifth, then down to nothing, by cosines."""
    rise = 0.2
    if done < rise:
        return 0.04 + 0.96 * (1 - math.cos(math.pi * done / rise)) / 2
    return (1 + math.cos(math.pi * (done - rise) / (1 - rise))) / 2
