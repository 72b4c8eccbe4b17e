from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.errors import SettingsError
from training.settings import SpectrogramSettings
from training.spectrogram import Spectrogram, triads

from .made import CHANNELS, RATE, SAMPLES, SMALL, windows

TWO = (*CHANNELS, "gyr_x", "gyr_y", "gyr_z")


def noise(n: int = 6, channels: int = 6, seed: int = 0, samples: int = SAMPLES) -> torch.Tensor:
    return torch.randn(n, channels, samples, generator=torch.Generator().manual_seed(seed))


def fitted(
    signals: torch.Tensor, channels: tuple[str, ...] = TWO, settings: SpectrogramSettings = SMALL
) -> Spectrogram:
    spectrogram = Spectrogram(channels, settings, rate_hz=RATE, samples=signals.shape[2])
    spectrogram.fit(signals)
    return spectrogram


def test_triads_are_sensors_with_all_three_axes() -> None:
    channels = ("acc_z", "pre", "acc_x", "mag_x", "mag_y", "acc_y")
    assert triads(channels) == {"acc": (2, 5, 0)}
    assert Spectrogram(channels, SMALL, rate_hz=RATE, samples=SAMPLES).names == (*channels, "acc_norm")


def test_an_image_a_channel_and_norm_of_mean_zero_and_variance_one_over_the_source() -> None:
    source = torch.from_numpy(windows().signals)
    images = fitted(source, CHANNELS)(source)
    assert images.shape == (len(source), 4, SMALL.bands, SMALL.frames)
    np.testing.assert_allclose(images.mean((0, 2, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(images.std((0, 2, 3), unbiased=False), 1, atol=1e-3)


@given(st.integers(0, 99), st.sets(st.sampled_from(range(6))), st.floats(0, 0.9))
def test_a_missing_sensor_is_an_image_of_zeros_and_a_gap_stays_finite(
    seed: int, missing: set[int], gaps: float
) -> None:
    spectrogram = fitted(noise())
    signals = noise(n=3, seed=seed)
    signals[torch.rand(signals.shape, generator=torch.Generator().manual_seed(seed)) < gaps] = torch.nan
    signals[1, list(missing)] = torch.nan
    images = spectrogram(signals)
    assert torch.isfinite(images).all()
    gone = [*missing, *([6] if missing & {0, 1, 2} else []), *([7] if missing & {3, 4, 5} else [])]
    assert (images[1, gone] == 0).all()
    torch.testing.assert_close(images[[0]], spectrogram(signals[[0]]), msg="one window says nothing about another")


@given(st.integers(0, 99), st.floats(-50, 50))
def test_a_constant_offset_changes_nothing(seed: int, offset: float) -> None:
    spectrogram = fitted(noise(channels=1), ("pre",))
    signals = noise(n=2, channels=1, seed=seed)
    torch.testing.assert_close(spectrogram(signals + offset), spectrogram(signals), rtol=1e-3, atol=1e-2)


def test_the_norms_image_does_not_depend_on_how_the_phone_is_held() -> None:
    spectrogram = fitted(noise(channels=3), CHANNELS)
    signals = noise(n=2, channels=3, seed=5)
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))
    before, after = spectrogram(signals), spectrogram(turn @ signals)
    torch.testing.assert_close(before[:, 3], after[:, 3], rtol=1e-3, atol=1e-3)
    assert not torch.allclose(before[:, :3], after[:, :3], atol=0.1)


def test_a_tone_is_in_its_band() -> None:
    """16 bands of 50 / 32 Hz each: band k is (k + 1) · 1.5625 Hz."""
    time = np.arange(SAMPLES) / RATE
    tones = [np.sin(2 * np.pi * frequency * time) for frequency in (3.125, 12.5)]
    signals = torch.tensor(np.array(tones)[:, None], dtype=torch.float32)
    images = fitted(signals, ("pre",))(signals).mean(-1)[:, 0]
    assert images.argmax(1).tolist() == [1, 7]


@pytest.mark.parametrize("missing", [torch.nan, 0.0])
def test_what_the_source_never_had_is_no_news_from_the_target(missing: float) -> None:
    """Phones of the source without a gyroscope (or with a dead one), phones of the target with: nothing was learned about it, and
    a scale of nothing would make its images so large that they drown all the others."""
    source = noise()
    source[:, 3:] = missing
    spectrogram = fitted(source)
    images = spectrogram(noise(seed=1))
    assert (images[:, [3, 4, 5, 7]] == 0).all()
    assert images[:, :3].abs().max() < 20


@pytest.mark.parametrize("rate_hz", [10.0, 20.0, 25.0, 33.3, 50.0, 100.0])
def test_low_rates_have_fewer_bands_but_each_is_where_it_belongs(rate_hz: float) -> None:
    settings = replace(SMALL, segment=timedelta(seconds=1.28), bands=32)
    samples = round(5 * rate_hz)
    spectrogram = Spectrogram(("pre",), settings, rate_hz=rate_hz, samples=samples)
    time = torch.arange(samples) / rate_hz
    signals = torch.sin(2 * torch.pi * 2.34375 * time)[None, None]  # three turns in 1.28 s
    power, _ = spectrogram._power(signals)
    assert power.shape[2] == min(32, round(1.28 * rate_hz) // 2)
    rows = power[0, 0].mean(-1)
    assert rows.argmax() == 2
    assert rows[2] > 5 * rows[5:].max(), "a tone is in its band and in those beside it"


@given(st.integers(4, 200), st.integers(1, 64))
def test_bands_cover_what_they_should(segment: int, bands: int) -> None:
    settings = SpectrogramSettings(segment=timedelta(seconds=segment / RATE), bands=bands)
    filters = Spectrogram(("pre",), settings, rate_hz=RATE, samples=max(SAMPLES, segment)).bands
    assert filters.shape == (min(bands, segment // 2), segment // 2 + 1)
    assert torch.isfinite(filters).all()
    assert (filters >= 0).all()
    torch.testing.assert_close(filters.sum(1), torch.ones(len(filters)))
    centres = filters @ torch.arange(segment // 2 + 1, dtype=torch.float32)
    assert (centres.diff() > 0).all()
    assert (filters[:, 0] == 0).all(), "the mean was taken away"


@pytest.mark.parametrize(
    ("change", "samples", "message"),
    [
        ({}, 31, r"\[spectrogram\] segment = 0.64 s.*windows of 0.62 s"),
        ({"segment": timedelta(seconds=0.02)}, SAMPLES, r"\[spectrogram\] segment = 0.02 s.*at least"),
        ({"frames": 1}, SAMPLES, r"\[spectrogram\] frames = 1"),
        ({"bands": 0}, SAMPLES, r"\[spectrogram\] bands = 0"),
    ],
)
def test_settings_that_give_no_image_are_refused(change: dict[str, object], samples: int, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Spectrogram(CHANNELS, replace(SMALL, **change), rate_hz=RATE, samples=samples)  # type: ignore[arg-type]
