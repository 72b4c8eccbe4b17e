"""From the motion of a body to what a phone carried on it would ideally report.

The phone turns with the body (gait, leaning, turning), hangs or is held in an attitude of its own, and drifts in it. Gravity
and the earth's magnetic field stay where they are, so what they add to each axis follows from the attitude.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from streaming.fleet.people import Person, Position
from streaming.fleet.phones import Truth, rotation
from streaming.fleet.signals import GRID_HZ, Array, bursts, low_pass, noise, resonance, slow

GRAVITY = 9.80665
"""m/s²."""
_EARTH_FIELD = (20.0, 0.0, -44.0)
"""µT towards magnetic north, west and up, as in central Europe."""
_SEA_LEVEL = 1013.25
"""hPa."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Motion:
    """A body's motion on the grid; directions are the body's: forward, left, up."""

    force: Array
    """(n, 3) acceleration in m/s², without gravity."""
    angles: Array
    """(n, 3) roll, pitch and yaw in radians."""
    field: Array
    """(n, 3) magnetic field in µT of the vehicle or building, on top of the earth's."""
    pressure: Array
    """(n,) hPa, difference from where the session began."""


def carried(motion: Motion, *, person: Person, position: Position, start_ns: int, rng: np.random.Generator) -> Truth:
    """What an ideal phone reports, carried by this person in this position."""
    size = len(motion.force)
    moved = bursts(rng, size, position.fidgets_per_minute * person.restlessness, (0.8, 2.5))[:, None]
    tremor = noise(rng, size, resonance(9.0, 3.0), axes=3) * position.tremor
    breathing = noise(rng, size, resonance(0.3, 2.0), axes=3) * 0.015
    fidget = noise(rng, size, resonance(1.8, 1.0), axes=3) * moved
    drift = noise(rng, size, slow(0.05), axes=3) * position.wander
    force = motion.force + tremor + breathing + 0.9 * fidget
    tilt = motion.angles + drift + 0.35 * noise(rng, size, slow(0.8), axes=3) * moved
    heading = rng.uniform(-np.pi, np.pi)
    attitude = rotation(np.array([*position.roll_pitch, 0.0]) + position.spread * _direction(rng))
    up = _seen(np.broadcast_to((0.0, 0.0, GRAVITY), (size, 3)), tilt)
    earth = _seen(np.broadcast_to(_EARTH_FIELD, (size, 3)), tilt + np.array([0.0, 0.0, heading]))
    shaken = motion.force - low_pass(motion.force, 2.0)
    rate = np.gradient(tilt, 1 / GRID_HZ, axis=0) + position.lever * np.roll(shaken, 1, axis=1)
    signals = {
        "accelerometer": (force + up) @ attitude,
        "gyroscope": rate @ attitude,
        "magnetometer": (earth + motion.field) @ attitude,
        "pressure": (_SEA_LEVEL + 6 * rng.normal() + _weather(rng, size) + motion.pressure)[:, None],
    }
    return Truth(start_ns=start_ns, signals=signals)


def _seen(vector: Array, angles: Array) -> Array:
    """A vector (n, 3) that stands still, in the axes of a body that has turned by roll, pitch and yaw (n, 3)."""
    x, y, z = vector.T
    (roll, pitch, yaw) = angles.T
    x, y = x * np.cos(yaw) + y * np.sin(yaw), y * np.cos(yaw) - x * np.sin(yaw)
    x, z = x * np.cos(pitch) - z * np.sin(pitch), z * np.cos(pitch) + x * np.sin(pitch)
    y, z = y * np.cos(roll) + z * np.sin(roll), z * np.cos(roll) - y * np.sin(roll)
    return np.stack([x, y, z], axis=1)


def _direction(rng: np.random.Generator) -> Array:
    return np.clip(rng.normal(size=3), -2, 2)


def _weather(rng: np.random.Generator, size: int) -> Array:
    """Up to about half a hectopascal an hour, either way."""
    return np.arange(size) / GRID_HZ / 3600 * 0.5 * float(np.clip(rng.normal(), -2, 2))
