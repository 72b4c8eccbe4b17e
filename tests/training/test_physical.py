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


def recorded(
    signals: np.ndarray, channels: tuple[str, ...] = ("gyr_x", "gyr_y", "gyr_z"), *, rate: int = RATE
) -> WindowSet:
    n = len(signals)
    return WindowSet.of(
        np.asarray(signals, np.float32), np.zeros(n, np.int64), np.full(n, "p"), channels=channels, scene_names=["Walk"], rate_hz=rate
    )  # fmt: skip


def walking(seed: int = 0, noise: float = 0.05, *, frequency: float = 2.0, rate: int = RATE) -> np.ndarray:
    """(3, samples) waves, and some noise."""
    rng, time = np.random.default_rng(seed), np.arange(SAMPLES) / rate
    waves = [
        size * np.sin(2 * np.pi * (frequency * time + phase)) for size, phase in ((3.0, 0.1), (2.0, 0.4), (1.0, 0.7))
    ]
    return np.stack(waves) + rng.normal(0, noise, (3, SAMPLES))


def sampled(times_s: np.ndarray, values: np.ndarray | None = None, *, grid: int = RATE) -> np.ndarray:
    """(3, 5 s) what the lake makes of a phone that sampled these values, or a wave, at these times."""
    points, times = np.arange(5 * grid) * (1_000_000_000 // grid), np.round(times_s * 1e9).astype(np.int64)
    if values is None:
        values = np.stack([np.sin(2 * np.pi * (2 * times_s + k / 3)) for k in range(3)], axis=1)
    return resample(
        times, values.astype(np.float32), grid=points, period_ns=1_000_000_000 // grid, max_gap_ns=300_000_000
    )


def test_a_flat_line_and_a_dead_accelerometer_are_poor_signals() -> None:
    made = windows(people=2, each=2)
    signals = made.signals.copy()
    signals[0] = 0
    signals[1, :, :] = signals[1, :, :1]
    quality = physical_quality(physical_checks(replace(made, signals=signals)))
    assert quality[0] == 0
    assert quality[1] < 0.1
    assert (quality[2:] > 0.9).all()


def test_a_missing_sensor_is_no_fault() -> None:
    made = windows(people=2, each=2)
    channels = (*made.channels, "mag_x")
    signals = np.concatenate([made.signals, np.full_like(made.signals[:, :1], np.nan)], axis=1)
    assert (physical_quality(physical_checks(replace(made, signals=signals, channels=channels))) > 0.9).all()


def test_the_worst_check_is_the_quality() -> None:
    """Coverage and clock see the same lost samples: a product would count them twice."""
    checks = {"one": np.array([0.4, 1.0, 1.0]), "two": np.array([0.5, 0.7, 1.0])}
    np.testing.assert_array_equal(physical_quality(checks), [0.4, 0.7, 1.0])
    half = walking()
    half[:, :250] = np.nan
    checks = physical_checks(recorded(np.clip(half, -1, 1)[None]))
    assert list(checks) == ["coverage", "channels that move", "gravity", "range", "clock"]
    assert checks["coverage"] == 0.5 > physical_quality(checks) == checks["range"]


def test_gravity_is_that_of_the_time_that_was_measured() -> None:
    signals = np.full((1, 3, SAMPLES), np.nan)
    signals[:, :, :100] = 9.81 / np.sqrt(3)
    assert physical_checks(recorded(signals, ("acc_x", "acc_y", "acc_z")))["gravity"] == 1


@pytest.mark.parametrize(("rate", "frequency"), [(20, 1.0), (50, 1.0), (100, 2.0)])
@pytest.mark.parametrize("limit", [0.5, 1.5, 2.5])
def test_tops_that_are_cut_off_count_by_their_share(limit: float, rate: int, frequency: float) -> None:
    whole = walking(rate=rate, frequency=frequency)
    cut = np.clip(whole, -limit, limit)
    checks = physical_checks(recorded(np.stack([whole, cut]), rate=rate))
    assert checks["range"][0] == 1
    lost = (np.abs(whole) > limit).mean(1).max()
    # Noise, and few points in a top, make some plateaus too short to count.
    assert (0.9 if rate > 20 else 0.6) * lost < 1 - checks["range"][1] <= lost + 1e-9
    assert (checks["clock"] == 1).all()


def test_one_turning_point_is_no_cut_top() -> None:
    """A slow wave whose few extremes happen to be flat for a moment."""
    whole = walking(noise=0.0, frequency=0.2)
    flat = np.where(
        np.abs(whole) > 0.999 * np.abs(whole).max(1, keepdims=True),
        np.sign(whole) * np.abs(whole).max(1, keepdims=True),
        whole,
    )
    assert (np.diff(flat, axis=1) == 0).sum() > 5
    assert physical_checks(recorded(flat[None]))["range"] == 1


def test_values_in_steps_are_not_cut_off() -> None:
    """A sensor of coarse numbers has plateaus everywhere, at the ends of its range as well."""
    coarse = np.round(walking(noise=0.0) / 0.5) * 0.5
    assert physical_checks(recorded(coarse[None]))["range"] == 1


@pytest.mark.parametrize("jitter_s", [0.0, 0.0008])
@pytest.mark.parametrize("rate", [20, 50, 100])
@pytest.mark.parametrize("changes", [0.1, 0.2, 0.5])
def test_a_coarse_sensor_at_rest_is_not_cut_off(changes: float, rate: int, jitter_s: float) -> None:
    """On a table: it flickers between two values, or says one for seconds, and the lake draws lines between them."""
    rng = np.random.default_rng(0)
    times = np.sort(np.arange(0, 6, 1 / rate) + rng.normal(0, jitter_s, 6 * rate))
    flicker = 0.04 * (np.cumsum(rng.random((len(times), 3)) < changes, axis=0) % 2) + 8.1
    three = 0.04 * rng.choice([0, 1, 2], (len(times), 3), p=[changes, 1 - 1.5 * changes, changes / 2]) + 8.1
    checks = physical_checks(
        recorded(np.stack([sampled(times, flicker), sampled(times, three)]), ("acc_x", "acc_y", "acc_z"))
    )
    assert (checks["range"] == 1).all()


def test_a_sensor_that_reports_changes_only_is_not_cut_off() -> None:
    resting = np.full((1, 3, SAMPLES), 8.1)
    resting[:, :, 200:230] += np.linspace(0, 0.04, 30)
    resting[:, :, 400:430] += np.linspace(0, 0.05, 30)
    assert (physical_checks(recorded(resting))["range"] == 1).all()


def test_of_a_sensor_that_nobody_foresaw_the_range_is_not_known() -> None:
    cut = np.clip(walking(), -1, 1)[None]
    assert physical_checks(recorded(cut, ("gyr_x", "gyr_y", "gyr_z")))["range"] < 0.9
    assert physical_checks(recorded(cut, ("heat_x", "heat_y", "heat_z")))["range"] == 1


@pytest.mark.parametrize("grid", [50, 100])
@pytest.mark.parametrize("rate", [5, 20, 30, 50])
def test_a_steady_clock_is_steady_at_any_rate(rate: int, grid: int) -> None:
    whole = sampled(np.arange(0, 6, 1 / rate), grid=grid)
    half = whole.copy()
    half[:, :125] = np.nan
    assert (physical_checks(recorded(np.stack([whole, half]), rate=grid))["clock"] == 1).all()


def test_a_phones_usual_jitter_is_no_fault() -> None:
    rng = np.random.default_rng(0)
    times = np.sort(np.arange(0, 6, 1 / 50) + rng.normal(0, 0.003, 300))
    assert physical_checks(recorded(sampled(times)[None]))["clock"][0] == 1


def test_a_slow_clock_may_jitter_too() -> None:
    """Steps of 0.1 to 0.17 s, each sampled where it likes, are not twice the usual ones."""
    steps = np.random.default_rng(0).uniform(0.1, 0.17, 50)
    assert physical_checks(recorded(sampled(np.cumsum(steps) - 0.2)[None]))["clock"] == 1


# Two samples at the grid's own rate cannot be told from one between two grid points: 0.04 s of 50 Hz, on a grid of 50 Hz.
@pytest.mark.parametrize(
    ("kept_s", "grid"), [(0.25, 50), (0.1, 50), (0.06, 50), (0.25, 100), (0.1, 100), (0.06, 100), (0.04, 100)]
)
def test_a_clock_that_stutters_counts_by_the_time_it_stood_still(kept_s: float, grid: int) -> None:
    """Of each 0.3 or 0.5 s so much is kept."""
    every = 0.5 if kept_s > 0.2 else 0.3
    steady = np.arange(0, 6, 1 / 50)
    stuttering = steady[np.round(steady % every, 6) < kept_s - 1e-6]
    signals = sampled(stuttering, grid=grid)
    halves = signals.copy()
    halves[:, : halves.shape[1] // 2] = np.nan
    clock = physical_checks(recorded(np.stack([signals, halves]), rate=grid))["clock"]
    expected = 1 - (every - kept_s) / every
    assert clock == pytest.approx([expected, expected], abs=0.12)


def test_an_axis_that_is_not_there_hides_no_stutter() -> None:
    steady = np.arange(0, 6, 1 / 50)
    signals = np.stack([sampled(steady[(steady % 0.5) < 0.25])] * 2)
    signals[1, 2] = np.nan
    clock = physical_checks(recorded(signals))["clock"]
    assert clock[0] < 0.6
    assert clock[1] == pytest.approx(clock[0], abs=0.02)


def test_short_stalls_are_no_fault() -> None:
    """A tenth of a second is less than a step takes."""
    steady = np.arange(0, 6, 1 / 50)
    signals = sampled(steady[np.round(steady % 0.2, 6) % 0.2 < 0.119])
    assert physical_checks(recorded(signals[None]))["clock"] == 1


def test_where_nothing_moves_nothing_is_known_of_the_clock() -> None:
    signals = np.zeros((1, 3, SAMPLES))
    signals[:, :, 300:] = walking()[:, 300:]
    assert physical_checks(recorded(signals))["clock"] == 1


def test_of_several_sensors_the_worst_counts() -> None:
    steady = np.arange(0, 6, 1 / 50)
    good, cut, stutter = walking(), np.clip(walking(1), -1, 1), sampled(steady[(steady % 0.5) < 0.25])
    both = ("gyr_x", "gyr_y", "gyr_z", "mag_x", "mag_y", "mag_z")
    for name, bad in (("range", 10 * cut), ("clock", stutter)):
        alone = physical_checks(recorded(bad[None], both[3:]))[name]
        assert physical_checks(recorded(np.concatenate([good, bad])[None], both))[name] == alone < 0.98


def test_signals_are_checked_in_pieces_as_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = windows(people=2, each=3)
    at_once = physical_quality(physical_checks(made))
    monkeypatch.setattr(module, "_AT_ONCE", 4 * made.signals[0].size)
    np.testing.assert_array_equal(physical_quality(physical_checks(made)), at_once)
    assert physical_quality(physical_checks(made.select(np.zeros(len(made), bool)))).shape == (0,)


@pytest.mark.parametrize("samples", [1, 2, 3, 4])
def test_the_shortest_windows_have_checks_too(samples: int) -> None:
    made = recorded(np.stack([np.ones((3, samples)), np.full((3, samples), np.nan)]))
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
