from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from streaming.resample import resample
from tests.training.made import windows
from training import physical as module
from training.dataset import WindowSet
from training.physical import _longer, physical_checks, physical_quality

RATE, SAMPLES = 100, 500


def recorded(signals: np.ndarray, channels: tuple[str, ...] = ("gyr_x", "gyr_y", "gyr_z")) -> WindowSet:
    n = len(signals)
    return WindowSet.of(
        np.asarray(signals, np.float32), np.zeros(n, np.int64), np.full(n, "p"), channels=channels, scene_names=["Walk"], rate_hz=RATE
    )  # fmt: skip


def walking(seed: int = 0, noise: float = 0.05) -> np.ndarray:
    """(3, samples) waves of 2 Hz and some noise."""
    rng, time = np.random.default_rng(seed), np.arange(SAMPLES) / RATE
    waves = [size * np.sin(2 * np.pi * (2 * time + phase)) for size, phase in ((3.0, 0.1), (2.0, 0.4), (1.0, 0.7))]
    return np.stack(waves) + rng.normal(0, noise, (3, SAMPLES))


def sampled(times_s: np.ndarray) -> np.ndarray:
    """(3, samples) what the lake makes of a phone that sampled at these times."""
    grid = np.arange(SAMPLES) * 10_000_000
    times = np.round(times_s * 1e9).astype(np.int64)
    values = np.stack([np.sin(2 * np.pi * (2 * times_s + k / 3)) for k in range(3)], axis=1).astype(np.float32)
    return resample(times, values, grid=grid, period_ns=10_000_000, max_gap_ns=300_000_000)


def test_a_flat_line_and_a_dead_accelerometer_are_poor_signals() -> None:
    made = windows(people=2, each=2)
    signals = made.signals.copy()
    signals[0] = 0
    signals[1, :, :] = signals[1, :, :1]
    quality = physical_quality(replace(made, signals=signals))
    assert quality[0] == 0
    assert quality[1] < 0.1
    assert (quality[2:] > 0.9).all()


def test_a_missing_sensor_is_no_fault() -> None:
    made = windows(people=2, each=2)
    channels = (*made.channels, "mag_x")
    signals = np.concatenate([made.signals, np.full_like(made.signals[:, :1], np.nan)], axis=1)
    assert (physical_quality(replace(made, signals=signals, channels=channels)) > 0.9).all()


@pytest.mark.parametrize("limit", [0.5, 1.5, 2.5])
def test_tops_that_are_cut_off_count_by_their_share(limit: float) -> None:
    whole = walking()
    cut = np.clip(whole, -limit, limit)
    checks = physical_checks(recorded(np.stack([whole, cut])))
    assert checks["range"][0] == 1
    lost = (np.abs(whole) > limit).mean(1).max()
    # Noise makes some plateaus too short to count.
    assert 0.9 * lost < 1 - checks["range"][1] <= lost + 1e-9
    assert (checks["clock"] == 1).all()


def test_coarse_numbers_are_not_cut_off() -> None:
    """A phone at rest whose sensor knows five values: every value is a plateau, the ends of its range as well."""
    rng = np.random.default_rng(0)
    coarse = np.repeat(rng.integers(-2, 3, (4, 3, SAMPLES // 5)) * 0.04, 5, axis=2)
    flicker = np.repeat(rng.integers(0, 2, (4, 3, SAMPLES // 5)) * 0.04, 5, axis=2)
    assert (physical_checks(recorded(np.concatenate([coarse, flicker])))["range"] == 1).all()


def test_a_sensor_that_reports_changes_only_is_not_cut_off() -> None:
    """On a table: one value for seconds, which is the smallest there is, and a few others."""
    resting = np.full((1, 3, SAMPLES), 8.1)
    resting[:, :, 200:230] += np.linspace(0, 0.04, 30)
    resting[:, :, 400:430] += np.linspace(0, 0.05, 30)
    assert (physical_checks(recorded(resting))["range"] == 1).all()


@pytest.mark.parametrize("rate", [5, 20, 50, 60, 100])
def test_a_steady_clock_is_steady_at_any_rate(rate: int) -> None:
    assert physical_checks(recorded(sampled(np.arange(0, 6, 1 / rate))[None]))["clock"][0] == 1


def test_a_phones_usual_jitter_is_no_fault() -> None:
    rng = np.random.default_rng(0)
    times = np.sort(np.arange(0, 6, 1 / 50) + rng.normal(0, 0.003, 300))
    assert physical_checks(recorded(sampled(times)[None]))["clock"][0] == 1


def test_a_clock_that_stutters_counts_by_the_time_it_stood_still() -> None:
    steady = np.arange(0, 6, 1 / 50)
    # Half of each 0.5 s is missing.
    stuttering = steady[(steady % 0.5) < 0.25]
    clock = physical_checks(recorded(sampled(stuttering)[None]))["clock"][0]
    assert 0.4 < clock < 0.6


def test_of_several_sensors_the_worst_counts() -> None:
    good, cut = walking(), np.clip(walking(1), -1, 1)
    both = recorded(np.concatenate([good, cut])[None], ("gyr_x", "gyr_y", "gyr_z", "mag_x", "mag_y", "mag_z"))
    alone = recorded(cut[None], ("mag_x", "mag_y", "mag_z"))
    assert physical_checks(both)["range"] == physical_checks(alone)["range"] < 0.9


def test_signals_are_checked_in_pieces_as_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = windows(people=2, each=3)
    at_once = physical_quality(made)
    monkeypatch.setattr(module, "_AT_ONCE", 4)
    np.testing.assert_array_equal(physical_quality(made), at_once)
    assert physical_quality(made.select(np.zeros(len(made), bool))).shape == (0,)


@pytest.mark.parametrize("samples", [1, 2, 3, 4])
def test_the_shortest_windows_have_checks_too(samples: int) -> None:
    made = recorded(np.ones((2, 3, samples)))
    assert all(np.isfinite(each).all() for each in physical_checks(made).values())


@settings(max_examples=60)
@given(arrays(bool, (2, 30)), st.integers(1, 9))
def test_rows_of_marks_that_are_long_enough(marks: np.ndarray, length: int) -> None:
    wanted = np.zeros_like(marks)
    for row, line in enumerate(marks):
        begin = 0
        for at in range(len(line) + 1):
            if at == len(line) or not line[at]:
                wanted[row, begin:at] = at - begin >= length
                begin = at + 1
    np.testing.assert_array_equal(_longer(marks, length), wanted)
