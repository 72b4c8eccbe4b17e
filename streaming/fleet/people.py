"""People, and where they carry their phone: what of the body's and the vehicle's motion reaches it.

Gait figures follow the biomechanics literature: walking at about 110 steps a minute with some 2 to 3 m/s² of vertical
acceleration at the trunk, running at about 160 with 8 to 12 (Zijlstra & Hof, 2003, "Assessment of spatio-temporal gait
parameters from trunk accelerations"; Cavagna et al., 1988, "The determinants of the step frequency in running").
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True)
class Position:
    """A place for a phone. Directions are the body's: forward, left, up."""

    name: str
    """hips, torso, hand or bag."""
    roll_pitch: tuple[float, float]
    """Usual attitude in radians; at (0, 0) the phone lies flat, its screen up."""
    spread: float
    """Standard deviation in radians of that attitude from session to session; π and more is any."""
    gait: tuple[float, float, float]
    """Share of the trunk's gait acceleration, in each direction."""
    swing: float
    """Rotation (rad) with each stride: a thigh or an arm swings, a torso hardly."""
    pedal: float
    """Rotation (rad) with each turn of a pedal."""
    vibration: float
    """Share of a vehicle's vibration."""
    lever: float
    """rad/s of rotation that comes with each m/s² of vibration, since nothing is held at its centre of mass."""
    soft_hz: float
    """Frequency above which flesh, cloth or padding takes vibration away."""
    fidgets_per_minute: float
    """How often it is moved for no reason of the scene's."""
    tremor: float
    """Root mean square (m/s²) of a hand's 9 Hz tremor."""
    wander: float
    """Standard deviation (rad) of the slow drift of its attitude."""


POSITIONS = MappingProxyType(
    {
        position.name: position
        for position in (
            Position(
                name="hips", roll_pitch=(0.1, 1.4), spread=0.35, gait=(1.1, 1.0, 1.0), swing=0.36, pedal=0.45,
                vibration=1.0, lever=0.04, soft_hz=32.0, fidgets_per_minute=0.7, tremor=0.005, wander=0.05,
            ),
            Position(
                name="torso", roll_pitch=(0.0, -1.5), spread=0.25, gait=(0.8, 0.8, 0.95), swing=0.07, pedal=0.04,
                vibration=0.75, lever=0.03, soft_hz=22.0, fidgets_per_minute=0.8, tremor=0.005, wander=0.04,
            ),
            Position(
                name="hand", roll_pitch=(0.0, -0.6), spread=0.3, gait=(0.9, 0.6, 0.5), swing=0.5, pedal=0.05,
                vibration=0.6, lever=0.11, soft_hz=13.0, fidgets_per_minute=3.5, tremor=0.1, wander=0.14,
            ),
            Position(
                name="bag", roll_pitch=(0.0, 0.0), spread=3.5, gait=(0.7, 1.2, 0.8), swing=0.14, pedal=0.05,
                vibration=1.3, lever=0.015, soft_hz=15.0, fidgets_per_minute=0.3, tremor=0.0, wander=0.03,
            ),
        )
    }
)  # fmt: skip
"""Every carrying position that is known, by name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Traits:
    """A population's distribution of what is a person's own; a pair is mean and standard deviation."""

    walk_hz: tuple[float, float]
    """Steps per second."""
    run_hz: tuple[float, float]
    """Steps per second."""
    cadence_hz: tuple[float, float]
    """Turns of the pedals per second."""
    vigour: tuple[float, float]
    """How hard they step, as a multiple of the usual."""
    lameness: tuple[float, float]
    """How much a left step differs from a right one."""
    restlessness: tuple[float, float]
    """How often they fidget, as a multiple of the position's figure."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Person:
    """One person's own way to move; the fields are those of :class:`Traits`."""

    walk_hz: float
    run_hz: float
    cadence_hz: float
    vigour: float
    lameness: float
    restlessness: float


def draw_person(traits: Traits, rng: np.random.Generator) -> Person:
    """Somebody of this population; no trait is more than two standard deviations from its mean, or negative."""

    def draw(trait: tuple[float, float]) -> float:
        mean, deviation = trait
        return max(0.0, mean + deviation * float(np.clip(rng.normal(), -2, 2)))

    return Person(
        walk_hz=draw(traits.walk_hz),
        run_hz=draw(traits.run_hz),
        cadence_hz=draw(traits.cadence_hz),
        vigour=draw(traits.vigour),
        lameness=draw(traits.lameness),
        restlessness=draw(traits.restlessness),
    )
