"""How many epochs a training has, and at which learning rate."""

from __future__ import annotations

import math

from training.settings import FineTuneSettings

_COST = 3
"""Trainings with everybody that a fine-tuning may cost: the one that is kept, and those that only judge."""


def epochs_of(windows: int, settings: FineTuneSettings) -> int:
    """Passes over so many windows: as many as are set, within the steps that are set, but one at least."""
    steps_per_epoch = math.ceil(windows / settings.batch)
    return max(1, min(settings.epochs, settings.max_steps // steps_per_epoch))


def tried_of(passes: int, folds: int) -> int:
    """Passes of a training without one of so many folds of people, which only tells what the one with everybody is worth.

    As many as that has, or as many as all together may cost: of four folds two thirds, of three or two all. One at least, so that where
    the one that is kept has one only, four folds make four trainings.
    """
    # Each fold is left out of one training: together they see everybody folds - 1 times.
    affordable = (_COST - 1) * passes // max(folds - 1, 1)
    return max(min(passes, 1), min(passes, affordable))


def one_cycle(done: float) -> float:
    """Learning rate at a share (0 to 1) of the training, relative to its highest: up within a fifth, then down to nothing, by cosines."""
    rise = 0.2
    if done < rise:
        return 0.04 + 0.96 * (1 - math.cos(math.pi * done / rise)) / 2
    return (1 + math.cos(math.pi * (done - rise) / (1 - rise))) / 2
