"""Building blocks of simulated motion: shaped noise, tones, bursts and knocks on one fine grid.

Noise is made in the frequency domain, so that a spectrum can be written down as a function of frequency and costs one FFT.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
"""Signals are float64 until a phone has measured them."""
Shape = Callable[[Array], Array]
"""Relative amplitude at each frequency in Hz."""

GRID_HZ = 200
"""Samples per second of the grid on which motion is simulated: twice the highest frequency that a phone still reports."""


def noise(rng: np.random.Generator, size: int, shape: Shape, *, axes: int = 1) -> Array:
    """Gaussian noise of this spectrum, (size, axes), root mean square 1 in expectation."""
    frequencies = _frequencies(size)
    amplitude = shape(frequencies)
    amplitude = amplitude * size / (2 * np.sqrt(np.sum(amplitude**2)))
    spectrum = rng.normal(size=(len(frequencies), axes, 2)).view(np.complex128)[..., 0]
    return np.fft.irfft(spectrum * amplitude[:, None], n=size, axis=0)


def slow(cutoff_hz: float) -> Shape:
    """Noise that changes no faster than this: second-order roll-off, 12 dB per octave."""
    return lambda frequency: 1 / (1 + (frequency / cutoff_hz) ** 2)


def resonance(centre_hz: float, sharpness: float) -> Shape:
    """A mass on a spring: noise around this frequency, ``sharpness`` being its Q."""

    def shape(frequency: Array) -> Array:
        ratio = np.maximum(frequency, 1e-6) / centre_hz
        return 1 / np.sqrt(1 + (sharpness * (ratio - 1 / ratio)) ** 2)

    return shape


def softened(frequency: Array | float, cutoff_hz: float) -> Array:
    """What a second-order low-pass leaves of an amplitude at this frequency."""
    return 1 / np.sqrt(1 + (np.asarray(frequency, dtype=np.float64) / cutoff_hz) ** 4)


def low_pass(signal: Array, cutoff_hz: float) -> Array:
    """The signal (n, axes) through a second-order low-pass without delay."""
    frequencies = _frequencies(len(signal))
    return np.fft.irfft(np.fft.rfft(signal, axis=0) * softened(frequencies, cutoff_hz)[:, None], n=len(signal), axis=0)


def phase(frequency_hz: Array) -> Array:
    """Radians passed, for a frequency (n,) that changes with time."""
    return 2 * np.pi * np.cumsum(frequency_hz) / GRID_HZ


def bursts(rng: np.random.Generator, size: int, per_minute: float, length_s: tuple[float, float]) -> Array:
    """An envelope (n,), 0 with smooth bumps up to 1: when somebody fidgets, or a phone is typed on."""
    envelope = np.zeros(size)
    for _ in range(rng.poisson(per_minute * size / GRID_HZ / 60)):
        length = int(rng.uniform(*length_s) * GRID_HZ)
        start = int(rng.integers(0, size))
        bump = np.hanning(length)[: size - start]
        envelope[start : start + len(bump)] = np.maximum(envelope[start : start + len(bump)], bump)
    return envelope


def knocks(at: NDArray[np.intp], size: int, ring_hz: float, decay_s: float) -> Array:
    """A decaying oscillation (n,) of amplitude 1 after each of these grid positions: a wheel over a rail joint, a heel."""
    time = np.arange(int(4 * decay_s * GRID_HZ)) / GRID_HZ
    hits = np.zeros(size)
    np.add.at(hits, at[at < size], 1.0)
    return np.convolve(hits, np.exp(-time / decay_s) * np.sin(2 * np.pi * ring_hz * time))[:size]


def switched(rng: np.random.Generator, size: int, on_s: float, off_s: float, ramp_s: float) -> Array:
    """An envelope (n,) between 0 and 1 that alternates between on and off for random (exponential) times."""
    envelope = np.empty(size)
    position = 0
    on = bool(rng.random() < on_s / (on_s + off_s))
    while position < size:
        length = 1 + int(rng.exponential(on_s if on else off_s) * GRID_HZ)
        envelope[position : position + length] = float(on)
        position += length
        on = not on
    return smooth(envelope, ramp_s)


def smooth(signal: Array, length_s: float) -> Array:
    """A moving Hann average of a signal (n,); what is beyond the ends is taken to be as at the ends."""
    kernel = np.hanning(max(3, int(length_s * GRID_HZ)))
    kernel /= kernel.sum()
    left = len(kernel) // 2
    padded = np.pad(signal, (left, len(kernel) - 1 - left), mode="edge")
    return np.convolve(padded, kernel, mode="valid")


def _frequencies(size: int) -> Array:
    """Hz of each bin of the FFT of a signal on the grid."""
    return np.asarray(np.arange(size // 2 + 1) * (GRID_HZ / size), dtype=np.float64)
