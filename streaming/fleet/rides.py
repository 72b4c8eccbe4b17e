"""Car, bus, train and subway: one model of a vehicle, four sets of figures.

A vehicle accelerates, cruises, brakes and stops; its floor vibrates with engine, road or rail in proportion to its speed; its
body bounces and sways on its springs; steel and traction current change the magnetic field; hills and tunnels the pressure.
Figures are of the order of ISO 2631 comfort studies (0.2 to 0.6 m/s² in cars, more in buses, less in trains) and of
published metro track profiles (1 m/s² of acceleration, a stop every one to two minutes).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from streaming.fleet.motion import Motion
from streaming.fleet.people import Position
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

_GRID_MAINS_HZ = 50.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """A city: multiples of the usual figures of its roads, rails and vehicles."""

    road: float
    """Roughness of its roads."""
    engine: float
    """How much its engines are felt; little where many are electric."""
    engine_hz: float
    """Frequency of its engines; other makes and gearboxes turn faster or slower."""
    rail: float
    """Roughness of its tracks."""
    joints: float
    """How much rail joints are felt; none on welded rails."""
    traction: float
    """Magnetic fields of traction currents."""
    mains: float
    """How far the railway's frequency is from 16.7 Hz (0) to the public grid's 50 Hz (1)."""
    iron: float
    """How much the field varies from spot to spot."""
    pace: float
    """How hard vehicles accelerate, brake and turn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ride:
    """What vehicles differ in. Amplitudes are root mean squares at cruising speed, on the floor."""

    cruise: float
    """m/s."""
    acceleration: float
    """m/s² when pulling away."""
    braking: float
    """m/s² when stopping."""
    run_s: float
    """Mean seconds at speed between two stops."""
    stop_s: float
    """Mean seconds of a stop."""
    turn: float
    """rad/s of yaw in turns."""
    bounce_hz: float
    """Frequency of the body on its springs."""
    bounce: float
    """m/s²."""
    wheel_hz: float
    """Frequency of the unsprung mass."""
    wheel: float
    """m/s²."""
    rumble_hz: float
    """Where the broad noise of road or rail ends."""
    rumble: float
    """m/s²."""
    idle_hz: float = 0.0
    """Firing frequency of the idling engine; 0 if there is none."""
    revved_hz: float = 0.0
    """Firing frequency before changing up."""
    engine: float = 0.0
    """m/s² of the engine's tone."""
    sway_hz: float = 0.8
    """Frequency of the lateral sway."""
    sway: float = 0.0
    """m/s²."""
    joint_m: float = 0.0
    """Metres between rail joints; 0 if there are none."""
    joint: float = 0.0
    """m/s² of the knock of a joint."""
    hum_hz: float = 50.0
    """Frequency of the traction current's field; above half of a magnetometer's rate it is seen aliased."""
    hum: float = 0.0
    """µT."""
    current: float = 0.0
    """µT of the slow field of the traction current."""
    steel: float = 8.0
    """µT of the vehicle's own field."""
    grade: float = 0.01
    """Usual slope."""
    tunnel: float = 0.0
    """hPa of the pressure pulses of tunnels and passing trains."""


RIDES: Mapping[str, Ride] = MappingProxyType(
    {
        "Car": Ride(
            cruise=13.0, acceleration=1.7, braking=2.2, run_s=35, stop_s=7, turn=0.22, bounce_hz=1.4, bounce=0.32,
            wheel_hz=12.0, wheel=0.22, rumble_hz=30, rumble=0.16, idle_hz=25, revved_hz=70, engine=0.12,
            sway=0.12, grade=0.015,
        ),
        "Bus": Ride(
            cruise=9.0, acceleration=1.1, braking=1.4, run_s=32, stop_s=8, turn=0.16, bounce_hz=0.95, bounce=0.55,
            wheel_hz=9.5, wheel=0.45, rumble_hz=22, rumble=0.22, idle_hz=17, revved_hz=42, engine=0.42,
            sway_hz=0.6, sway=0.36, grade=0.015, steel=14,
        ),
        "Train": Ride(
            cruise=30.0, acceleration=0.45, braking=0.6, run_s=240, stop_s=25, turn=0.012, bounce_hz=1.2, bounce=0.13,
            wheel_hz=6.5, wheel=0.1, rumble_hz=35, rumble=0.08, sway_hz=1.1, sway=0.2, joint_m=25, joint=0.35,
            hum_hz=16.7, hum=1.8, current=2.5, steel=16, grade=0.004, tunnel=0.25,
        ),
        "Subway": Ride(
            cruise=15.0, acceleration=0.95, braking=1.05, run_s=50, stop_s=10, turn=0.05, bounce_hz=1.7, bounce=0.16,
            wheel_hz=8.0, wheel=0.16, rumble_hz=60, rumble=0.2, sway_hz=1.6, sway=0.3, joint_m=18, joint=0.3,
            hum_hz=50, hum=1.5, current=16.0, steel=18, grade=0.012, tunnel=0.5,
        ),
    }
)  # fmt: skip
"""The vehicles, by scene."""


def ride(kind: Ride, *, position: Position, place: Place, size: int, rng: np.random.Generator) -> Motion:
    """A ride of ``size`` grid points, anywhere between two stops at its beginning."""
    speed, along = _drive(kind, place, size, rng)
    running = speed / kind.cruise
    yaw_rate = kind.turn * place.pace * running * smooth(noise(rng, size, slow(0.08))[:, 0] ** 3 / 2, 1.0)
    force = _floor(kind, place, position, running, rng)
    force[:, 0] += along
    force[:, 1] += np.clip(yaw_rate * speed, -2.5, 2.5)
    force += _engine(kind, place, position, running, along, rng)[:, None] * (0.5, 0.5, 1.0)
    if kind.joint_m:
        crossed = np.flatnonzero(np.diff(np.floor(np.cumsum(speed) / GRID_HZ / kind.joint_m)) > 0)
        bogies = np.concatenate([crossed, crossed + int(0.12 * GRID_HZ)])
        knock = knocks(bogies, size, ring_hz=7.0, decay_s=0.09) * kind.joint * place.joints
        force[:, 2] += knock * position.vibration * softened(7.0, position.soft_hz)
    angles = np.stack(
        [
            0.05 * kind.sway * noise(rng, size, resonance(kind.sway_hz, 2.0))[:, 0] * running,
            0.006 * along + 0.02 * kind.bounce * noise(rng, size, resonance(kind.bounce_hz, 2.0))[:, 0] * running,
            np.cumsum(yaw_rate) / GRID_HZ,
        ],
        axis=1,
    )
    return Motion(
        force=force,
        angles=angles,
        field=_field(kind, place, along, running, rng),
        pressure=_pressure(kind, speed, running, rng),
    )


def _drive(kind: Ride, place: Place, size: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Speed (n,) in m/s and its derivative (n,) in m/s²: pull away, run, brake, stop, and again."""
    pull, brake = kind.acceleration * place.pace, kind.braking * place.pace
    cycle = 2 * kind.cruise / min(pull, brake) + kind.run_s + kind.stop_s
    skipped = int(rng.uniform(0, 1) * cycle * GRID_HZ)
    pieces: list[Array] = []
    done = 0
    while done < skipped + size:
        top = kind.cruise * rng.uniform(0.7, 1.15)
        up, down = (max(2, int(top / rate * GRID_HZ)) for rate in (pull, brake))
        run = 1 + int(kind.run_s * rng.gamma(4, 0.25) * GRID_HZ)
        stop = 1 + int(kind.stop_s * rng.gamma(2, 0.5) * GRID_HZ)
        pieces += [np.linspace(0, top, up), np.full(run, top), np.linspace(top, 0, down), np.zeros(stop)]
        done += up + run + down + stop
    speed = np.concatenate(pieces)[skipped : skipped + size]
    traffic = 1 + 0.08 * smooth(noise(rng, size, slow(0.06))[:, 0], 2.0) * place.pace
    speed = np.maximum(0.0, smooth(speed * traffic, 1.5))
    return speed, np.gradient(speed) * GRID_HZ


def _floor(kind: Ride, place: Place, position: Position, running: Array, rng: np.random.Generator) -> Array:
    """Bounce, wheels, rumble and sway (n, 3)."""
    size = len(running)
    rough = (place.rail if kind.joint_m else place.road) * rng.uniform(0.8, 1.2)
    patches = 0.75 + 0.35 * smooth(np.abs(noise(rng, size, slow(0.4))[:, 0]), 0.5)
    rolling = (running * patches * rough)[:, None]

    def rumble(frequency: Array) -> Array:
        return softened(frequency, kind.rumble_hz) * (frequency > 2)

    bounce = noise(rng, size, resonance(kind.bounce_hz, 2.5), axes=3) * (0.3, 0.35, 1.0) * kind.bounce
    sway = noise(rng, size, resonance(kind.sway_hz, 4.0))
    buzz = noise(rng, size, resonance(kind.wheel_hz, 2.5), axes=3) * (0.4, 0.5, 1.0) * kind.wheel
    buzz += noise(rng, size, rumble, axes=3) * (0.6, 0.7, 1.0) * kind.rumble
    buzz = low_pass(buzz, position.soft_hz)
    force = rolling * (bounce + position.vibration * buzz)
    force[:, 1] += kind.sway * sway[:, 0] * running * rough
    return np.asarray(force)


def _engine(
    kind: Ride, place: Place, position: Position, running: Array, along: Array, rng: np.random.Generator
) -> Array:
    """The firing tone and its half order (n,): up with the speed in each gear, down at each change of gear."""
    if not kind.idle_hz:
        return np.zeros(len(running))
    gears = np.clip(running, 0, 1.3) * 4
    revs = np.where(running < 0.03, 0.0, 0.35 + 0.4 * (gears % 1.0))
    idle = kind.idle_hz * rng.normal(1, 0.06)
    frequency = place.engine_hz * smooth(idle + (kind.revved_hz - idle) * revs, 0.4)
    turning = phase(frequency)
    load = 0.6 + 0.4 * np.clip(along / kind.acceleration, 0, 1.2)
    loud = kind.engine * place.engine * rng.uniform(0.75, 1.25) * position.vibration * load * np.sqrt(2)
    tone = softened(frequency, position.soft_hz) * np.sin(turning)
    half = softened(frequency / 2, position.soft_hz) * np.sin(turning / 2 + 1)
    return np.asarray(loud * (tone + 0.6 * half))


def _field(kind: Ride, place: Place, along: Array, running: Array, rng: np.random.Generator) -> Array:
    """Steel, the slow field of the traction current, and its hum (n, 3)."""
    size = len(running)
    constant = kind.steel * rng.normal(size=3) / np.sqrt(3)
    spots = 1.0 * noise(rng, size, slow(0.3), axes=3) * running[:, None] * place.iron
    direction = rng.normal(size=3)
    direction /= np.linalg.norm(direction)
    drawn = np.abs(along) / kind.acceleration + 0.35 * running + 0.45
    flicker = noise(rng, size, slow(0.5), axes=1)[:, 0]
    slowly = (
        kind.current * place.traction * drawn * (0.6 * np.sign(along) * np.minimum(1, np.abs(along)) + 0.4 * flicker)
    )
    hum_hz = kind.hum_hz + place.mains * (_GRID_MAINS_HZ - kind.hum_hz)
    hum = np.sqrt(2) * kind.hum * place.traction * drawn * np.sin(2 * np.pi * hum_hz * np.arange(size) / GRID_HZ)
    return np.asarray(constant + spots + (smooth(slowly, 0.3) + hum)[:, None] * direction)


def _pressure(kind: Ride, speed: Array, running: Array, rng: np.random.Generator) -> Array:
    """Hills (0.12 hPa a metre), and pulses in tunnels (n,)."""
    size = len(speed)
    grade = kind.grade * (0.6 * rng.normal() + noise(rng, size, slow(0.02))[:, 0])
    height = np.cumsum(grade * speed) / GRID_HZ
    inside = switched(rng, size, on_s=15, off_s=15, ramp_s=1.5) + 0.5 * noise(rng, size, slow(0.25))[:, 0]
    return np.asarray(-0.12 * height + kind.tunnel * inside * running)
