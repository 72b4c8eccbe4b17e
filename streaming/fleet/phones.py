"""Phones: what of a motion they report, and when they say that it was.

A model has its rates, filters and usual faults; each device of it has its own gains, biases, misalignment and clock. Axes are
already Android's: what the platform's normalisation leaves is a misalignment of some degrees and an error of gain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from streaming.fleet.signals import GRID_HZ, Array, low_pass
from streaming.recording import Samples

SENSED = ("accelerometer", "gyroscope", "magnetometer", "pressure")
"""Sensors that simulated phones may have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sensing:
    """One sensor of a phone model, in the sensor's unit."""

    rate_hz: float
    """Samples per second."""
    noise: float
    """Root mean square of its own noise."""
    bias: float
    """Standard deviation, from device to device, of what it reports where there is nothing."""
    resolution: float
    """Step between two values that it can report."""
    low_pass_hz: float | None = None
    """Its built-in filter; None if there is none that matters."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PhoneModel:
    """A kind of phone."""

    name: str
    """Goes into ``phone_model``."""
    sensors: Mapping[str, Sensing]
    """What it has; a missing name is a missing sensor."""
    gain: float = 1.0
    """Factor on acceleration and rotation that the model as such is off by."""
    gain_spread: float = 0.01
    """Standard deviation of the factor from device to device and axis to axis."""
    misalignment: float = 0.02
    """Standard deviation, in radians, of the angle between the chip's axes and the case's."""
    jitter: float = 0.1
    """Largest error of a time stamp, as a share of the time between two samples (below 0.5); 0: exactly equal steps."""
    dropouts: float = 1.0
    """Multiple of the fleet's rate of drop-outs: some makers suspend background apps eagerly."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Phone:
    """One device."""

    model: PhoneModel
    """What kind it is."""
    gain: Mapping[str, Array]
    """Sensor → factor on each axis."""
    bias: Mapping[str, Array]
    """Sensor → what is added to each axis."""
    rotation: Array
    """(3, 3) from the case's axes to the chip's."""
    clock_offset_ns: int
    """Its clock minus the true time."""
    clock_rate: float
    """Seconds of its clock per true second."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Truth:
    """What an ideal phone would report, on the grid of :data:`GRID_HZ`, in the case's axes."""

    start_ns: int
    """True time of the first grid point."""
    signals: Mapping[str, Array]
    """Sensor → (n, axes)."""


def draw_phone(model: PhoneModel, clock_offset_s: float, rng: np.random.Generator) -> Phone:
    """A device of this model, its clock off by up to ``clock_offset_s`` seconds, most by much less."""
    gain, bias = {}, {}
    for name, sensing in model.sensors.items():
        axes = 1 if name == "pressure" else 3
        scale = model.gain if name in ("accelerometer", "gyroscope") else 1.0
        spread = 0.0 if name == "pressure" else model.gain_spread
        gain[name] = scale * (1 + spread * np.clip(rng.normal(size=axes), -2, 2))
        bias[name] = sensing.bias * np.clip(rng.normal(size=axes), -2, 2)
    exact = model.jitter == 0
    return Phone(
        model=model,
        gain=gain,
        bias=bias,
        rotation=rotation(model.misalignment * rng.normal(size=3)),
        clock_offset_ns=round(clock_offset_s * rng.uniform(-1, 1) ** 5 * 1_000_000) * 1_000,
        clock_rate=1.0 if exact else 1.0 + 20e-6 * float(np.clip(rng.normal(), -2, 2)),
    )


def measure(
    phone: Phone, truth: Truth, *, sensors: tuple[str, ...], dropouts_per_minute: float, rng: np.random.Generator
) -> dict[str, Samples]:
    """What the phone records; sensors that it lacks, or that a drop-out swallowed whole, are missing."""
    size = len(next(iter(truth.signals.values())))
    seconds = size / GRID_HZ
    gaps = _gaps(rng, seconds, dropouts_per_minute * phone.model.dropouts)
    recorded = {}
    for name in sensors:
        sensing = phone.model.sensors.get(name)
        if sensing is None:
            continue
        signal = truth.signals[name]
        if sensing.low_pass_hz is not None:
            signal = low_pass(signal, sensing.low_pass_hz)
        if signal.shape[1] == 3:
            signal = signal @ phone.rotation.T
        period = 1 / sensing.rate_hz
        instants = np.arange(rng.uniform(0, period), seconds - 1 / GRID_HZ, period)
        stamps = instants + phone.model.jitter * period * rng.uniform(-1, 1, size=len(instants))
        grid = np.arange(size) / GRID_HZ
        values = np.stack([np.interp(instants, grid, column) for column in signal.T], axis=1)
        values = values * phone.gain[name] + phone.bias[name] + sensing.noise * rng.normal(size=values.shape)
        values = np.round(values / sensing.resolution) * sensing.resolution
        kept = ~np.any((instants[:, None] > gaps[:, 0]) & (instants[:, None] < gaps[:, 1]), axis=1)
        if np.any(kept):
            recorded[name] = Samples(_clock(phone, truth.start_ns, stamps)[kept], values[kept].astype(np.float32))
    return recorded


def rotation(angles: Array) -> Array:
    """The (3, 3) matrix of roll, pitch and yaw (rad), applied in this order."""
    (cr, cp, cy), (sr, sp, sy) = np.cos(angles), np.sin(angles)
    roll = np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    pitch = np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
    yaw = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    return np.asarray(yaw @ pitch @ roll)


def _gaps(rng: np.random.Generator, seconds: float, per_minute: float) -> Array:
    """Start and end (k, 2) of the drop-outs: 0.05 to 3 s, short ones being the most frequent."""
    count = rng.poisson(per_minute * seconds / 60)
    starts = rng.uniform(0, seconds, size=count)
    lengths = np.exp(rng.uniform(np.log(0.05), np.log(3.0), size=count))
    return np.stack([starts, starts + lengths], axis=1)


def _clock(phone: Phone, start_ns: int, stamps: Array) -> NDArray[np.int64]:
    """Time stamps in whole µs, as Android's and iOS' own clocks are read; equal steps stay equal."""
    offset_us = np.round(stamps * phone.clock_rate * 1e6).astype(np.int64)
    if phone.model.jitter == 0 and len(offset_us) > 1:
        step = round((stamps[1] - stamps[0]) * 1e6)
        offset_us = offset_us[0] + np.arange(len(offset_us)) * step
    return start_ns + phone.clock_offset_ns + offset_us * 1_000


def _inertial(rate_hz: float, low_pass_hz: float, noise: float) -> dict[str, Sensing]:
    return {
        "accelerometer": Sensing(
            rate_hz=rate_hz, noise=0.02 * noise, bias=0.08, resolution=9.80665 / 4096, low_pass_hz=low_pass_hz
        ),
        "gyroscope": Sensing(
            rate_hz=rate_hz, noise=0.003 * noise, bias=0.01, resolution=0.00106, low_pass_hz=low_pass_hz
        ),
    }


def _magnetometer(rate_hz: float, noise: float) -> dict[str, Sensing]:
    return {"magnetometer": Sensing(rate_hz=rate_hz, noise=noise, bias=4.0, resolution=0.15)}


def _pressure(rate_hz: float, noise: float) -> dict[str, Sensing]:
    return {"pressure": Sensing(rate_hz=rate_hz, noise=noise, bias=0.8, resolution=0.001)}


MODELS = MappingProxyType(
    {
        model.name: model
        for model in (
            PhoneModel(
                name="Aster 9", jitter=0.0,
                sensors={**_inertial(100, 44, 1.0), **_magnetometer(100, 0.4), **_pressure(25, 0.008)},
            ),
            PhoneModel(
                name="Aster 9 Pro", jitter=0.05,
                sensors={**_inertial(200, 80, 0.8), **_magnetometer(100, 0.3), **_pressure(25, 0.006)},
            ),
            PhoneModel(
                name="Borage X", jitter=0.2, gain_spread=0.02,
                sensors={**_inertial(100, 40, 1.3), **_magnetometer(50, 0.5), **_pressure(10, 0.01)},
            ),
            PhoneModel(
                name="Cosmea 3", jitter=0.3, gain=0.9, gain_spread=0.03, misalignment=0.05, dropouts=1.5,
                sensors={**_inertial(50, 18, 1.8), **_magnetometer(40, 0.6), **_pressure(5, 0.02)},
            ),
            PhoneModel(
                name="Cosmea Lite", jitter=0.4, gain=1.1, gain_spread=0.04, misalignment=0.06, dropouts=3.0,
                sensors={**_inertial(50, 15, 2.5), **_magnetometer(32, 0.8)},
            ),
            PhoneModel(
                name="Dahlia 5G", jitter=0.0, gain=0.97, gain_spread=0.02,
                sensors={**_inertial(62.5, 20, 1.5), **_magnetometer(62.5, 0.6), **_pressure(12.5, 0.012)},
            ),
        )
    }
)  # fmt: skip
"""Every simulated phone model, by name; the names are invented."""
