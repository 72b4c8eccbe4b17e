"""The physics of the eight scenes of the SHL data set, on foot and by bicycle here, by vehicle in ``rides``.

Amplitudes are those of the trunk or the vehicle's floor; the carrying position says what of them reaches a phone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from streaming.fleet.motion import Motion
from streaming.fleet.people import Person, Position
from streaming.fleet.rides import RIDES, Place, ride
from streaming.fleet.signals import (
    GRID_HZ,
    Array,
    knocks,
    low_pass,
    noise,
    phase,
    resonance,
    slow,
    smooth,
    softened,
    switched,
)

SCENES = ("Still", "Walk", "Run", "Bike", "Car", "Bus", "Train", "Subway")
"""What the simulated people do; the names are SHL's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gait:
    """What walking and running differ in."""

    usual_hz: float
    """Steps per second at which the amplitudes hold; they go with its square."""
    amplitudes: tuple[tuple[float, float, float], ...]
    """m/s² of the trunk forward, left and up, at the first, second and third multiple of the stride's frequency."""
    heel_strike: float
    """m/s² of the knock of each step."""
    speed: float
    """m/s."""
    swing: float
    """Multiple of the position's swing."""


_WALK = Gait(
    usual_hz=1.85,
    amplitudes=((0.15, 0.8, 0.25), (1.3, 0.25, 2.3), (0.2, 0.5, 0.3), (0.5, 0.15, 0.8)),
    heel_strike=2.0,
    speed=1.35,
    swing=1.0,
)
_RUN = Gait(
    usual_hz=2.7,
    amplitudes=((0.5, 1.8, 0.6), (2.8, 0.6, 8.5), (0.5, 1.0, 0.8), (1.2, 0.4, 2.8)),
    heel_strike=6.0,
    speed=2.8,
    swing=1.7,
)


def motion(
    scene: str, *, person: Person, position: Position, place: Place, seconds: float, rng: np.random.Generator
) -> Motion:
    """The motion of a person in this scene, for this many seconds.

    Raises:
        KeyError: the scene is not one of :data:`SCENES`.
    """
    size = 2 * int(seconds * GRID_HZ / 2)
    if scene in RIDES:
        return ride(RIDES[scene], position=position, place=place, size=size, rng=rng)
    return _ON_FOOT[scene](person, position, place, size, rng)


def _still(_person: Person, _position: Position, place: Place, size: int, rng: np.random.Generator) -> Motion:
    """Sitting, standing or lying: the body sways below 1 Hz by some hundredths of m/s²."""
    sway = noise(rng, size, resonance(0.5, 0.7), axes=3) * rng.uniform(0.01, 0.05)
    lean = noise(rng, size, slow(0.3), axes=3) * rng.uniform(0.002, 0.02)
    return Motion(force=sway, angles=lean, field=_building(rng, size, 0.05, place), pressure=np.zeros(size))


def _walk(person: Person, position: Position, place: Place, size: int, rng: np.random.Generator) -> Motion:
    return _steps(_WALK, person.walk_hz, person, position, place, size, rng)


def _run(person: Person, position: Position, place: Place, size: int, rng: np.random.Generator) -> Motion:
    return _steps(_RUN, person.run_hz, person, position, place, size, rng)


def _steps(
    gait: Gait, step_hz: float, person: Person, position: Position, place: Place, size: int, rng: np.random.Generator
) -> Motion:
    """Harmonics of the stride (two steps), a knock at each heel strike, and now and then a stop at a kerb."""
    going = switched(rng, size, on_s=90, off_s=3, ramp_s=1.5)
    pace = rng.normal(1, 0.03) * (1 + 0.025 * noise(rng, size, slow(0.15))[:, 0])
    stride = phase(0.5 * step_hz * pace)
    vigour = person.vigour * rng.normal(1, 0.06) * (step_hz / gait.usual_hz) ** 2
    force = np.zeros((size, 3))
    for multiple, amplitude in enumerate(gait.amplitudes, start=1):
        lame = 1 + 3 * person.lameness if multiple % 2 else 1.0
        soft = softened(multiple * 0.5 * step_hz, position.soft_hz)
        angle = stride[:, None] * multiple + rng.normal(0, 0.3, size=3) + (0, 0, np.pi / 2)
        force += np.array(amplitude) * position.gait * lame * soft * np.sin(angle)
    steps = np.flatnonzero(np.diff(np.floor(stride / np.pi)) > 0)
    strike = knocks(steps, size, ring_hz=min(14.0, position.soft_hz), decay_s=0.05) * gait.heel_strike
    force[:, 2] += strike * softened(14.0, position.soft_hz) * position.gait[2]
    force[:, 0] -= 0.4 * strike * softened(14.0, position.soft_hz) * position.gait[0]
    uneven = 1 + 0.12 * noise(rng, size, slow(1.0), axes=3)
    force = force * uneven * vigour * going[:, None]
    swing = position.swing * gait.swing * vigour
    side = rng.choice((-1.0, 1.0))
    angles = (
        np.stack(
            [
                0.25 * swing * np.sin(stride + 0.8),
                swing * (np.sin(stride) + 0.25 * np.sin(2 * stride + 0.5)),
                side * 0.35 * swing * np.sin(stride + 1.9),
            ],
            axis=1,
        )
        * going[:, None]
    )
    angles[:, 2] += _turns(rng, size, 0.12) * going
    climb = 0.02 * rng.normal() + 0.02 * noise(rng, size, slow(0.02))[:, 0]
    height = np.cumsum(climb * going * gait.speed) / GRID_HZ
    return Motion(force=force, angles=angles, field=_building(rng, size, 0.35, place), pressure=-0.12 * height)


def _bike(person: Person, position: Position, place: Place, size: int, rng: np.random.Generator) -> Motion:
    """Pedalling (and coasting between), road roughness felt through a stiff frame, leaning into turns."""
    pedalling = switched(rng, size, on_s=25, off_s=5, ramp_s=1.5)
    pace = rng.normal(1, 0.06) * (1 + 0.05 * noise(rng, size, slow(0.1))[:, 0])
    crank = phase(person.cadence_hz * pace)
    rolling = 0.15 + 0.85 * switched(rng, size, on_s=80, off_s=5, ramp_s=3.0)
    speed = 4.8 * rng.normal(1, 0.12) * rolling

    def road(frequency: Array) -> Array:
        return resonance(4.5, 1.2)(frequency) + 0.8 * resonance(16.0, 1.5)(frequency)

    rough = low_pass(noise(rng, size, road, axes=3), position.soft_hz)
    rough *= np.array([0.55, 0.5, 1.2]) * place.road * rng.uniform(0.8, 1.2)
    patches = smooth(np.abs(noise(rng, size, slow(0.3))[:, 0]), 0.5)
    share = 0.4 + 0.6 * position.vibration
    force = rough * share * (rolling * (0.7 + 0.5 * patches))[:, None]
    effort = person.vigour * pedalling
    force[:, 0] += 0.35 * effort * np.sin(2 * crank + 0.4)
    force[:, 1] += 0.45 * effort * np.sin(crank)
    force[:, 2] += (0.25 + 0.9 * position.pedal) * effort * np.sin(2 * crank + 1.0)
    force[:, 0] += np.gradient(smooth(speed, 2.0)) * GRID_HZ
    lean = 0.05 * noise(rng, size, resonance(0.35, 1.0))[:, 0] + 0.03 * effort * np.sin(crank + 0.3)
    angles = np.stack(
        [lean, position.pedal * (0.1 + 0.9 * effort) * np.sin(crank) * pedalling, _turns(rng, size, 0.14)], axis=1
    )
    grade = 0.025 * rng.normal() + 0.02 * noise(rng, size, slow(0.02))[:, 0]
    height = np.cumsum(grade * speed) / GRID_HZ
    return Motion(force=force, angles=angles, field=_building(rng, size, 0.5, place), pressure=-0.12 * height)


def _turns(rng: np.random.Generator, size: int, rate: float) -> Array:
    """Heading (rad) of somebody who turns at about ``rate`` rad/s now and then."""
    return np.cumsum(noise(rng, size, slow(0.12))[:, 0] ** 3) * rate / GRID_HZ


def _building(rng: np.random.Generator, size: int, moving: float, place: Place) -> Array:
    """Steel and wiring around: constant where one stays, changing as one passes."""
    constant = 6.0 * rng.normal(size=3)
    hum = 0.15 * np.sin(2 * np.pi * 50.0 * np.arange(size) / GRID_HZ + rng.uniform(0, 6))
    return constant + 6.0 * moving * noise(rng, size, slow(0.25), axes=3) * place.iron + hum[:, None]


_ON_FOOT: Mapping[str, Callable[[Person, Position, Place, int, np.random.Generator], Motion]] = MappingProxyType(
    {"Still": _still, "Walk": _walk, "Run": _run, "Bike": _bike}
)
