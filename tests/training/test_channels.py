"""Channels are settings: fewer, more, or of a sensor that nobody foresaw; a missing one is masked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.training.made import SMALL, windows
from training.dataset import WindowSet
from training.embeddings import features_of
from training.heads import Head, fit_head
from training.network import infer
from training.original import fit_network
from training.quality import score_quality
from training.settings import OriginalSettings

QUICK = OriginalSettings(architecture="resnet18", epochs=4, batch=16, threads=1, device="cpu", sensor_dropout=0.5)
MAG = ("mag_x", "mag_y", "mag_z")


def nine(*, people: int = 4, each: int = 6, seed: int = 0) -> WindowSet:
    """Accelerometer, gyroscope and a magnetometer, each of which shows the scene."""
    made = windows(people=people, each=each, seed=seed)
    rng = np.random.default_rng(seed)
    turning = 0.3 * made.signals + rng.normal(0, 0.1, made.signals.shape)
    field = 20 + 5 * (made.signals - made.signals.mean(2, keepdims=True)) + rng.normal(0, 0.1, made.signals.shape)
    signals = np.concatenate([made.signals, turning, field], axis=1).astype(np.float32)
    return replace(made, signals=signals, channels=(*made.channels, "gyr_x", "gyr_y", "gyr_z", *MAG))


def without(made: WindowSet, channels: tuple[str, ...]) -> WindowSet:
    """The same phones with these sensors missing: NaN all along."""
    signals = made.signals.copy()
    signals[:, [made.channels.index(channel) for channel in channels]] = np.nan
    return replace(made, signals=signals)


def right(net: object, made: WindowSet) -> float:
    found = infer(net, torch.from_numpy(made.signals)).argmax(1).numpy()  # type: ignore[arg-type]
    return float((found == made.scenes).mean())


def test_a_model_works_with_the_magnetometer_and_without_it() -> None:
    """Trained with nine channels, some windows without the magnetometer; used on phones that have none."""
    made = nine()
    net = fit_network(made, QUICK, spectrogram=SMALL)
    new = nine(people=2, each=4, seed=9)
    assert right(net, new) > 0.9
    missing = without(new, MAG)
    assert right(net, missing) > 0.9
    six = new.with_channels([channel for channel in new.channels if channel not in MAG])
    np.testing.assert_array_equal(features_of(net, six.with_channels(net.channels)), features_of(net, missing))
    # The head can be fitted to such phones, and their labels be judged.
    features = features_of(net, missing)
    quality = score_quality(missing, features, Head.of(net), train=np.ones(len(missing), bool))
    assert (quality.physical > 0.9).all(), "a sensor that is not there is no fault"
    fitted = fit_head(features, missing.scenes, np.ones(len(missing)), start=Head.of(net), pull=1e-3)
    assert (fitted.logits(features).argmax(1) == missing.scenes).mean() > 0.9


def test_a_model_trained_without_the_magnetometer_ignores_one() -> None:
    """All of its phones lacked it: nothing was learned of it, whatever it says later."""
    net = fit_network(without(nine(), MAG), replace(QUICK, epochs=2), spectrogram=SMALL)
    new = nine(people=1, each=2, seed=9)
    np.testing.assert_allclose(features_of(net, new), features_of(net, without(new, MAG)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "channels",
    [
        ("acc_x", "acc_y", "acc_z"),
        ("acc_x", "acc_y", "acc_z", "pre"),
        ("acc_z",),
        ("heart_rate", "acc_x", "acc_y", "acc_z"),
    ],
    ids=["accelerometer", "pressure", "one axis", "unforeseen"],
)
def test_the_same_code_trains_on_whatever_channels_there_are(channels: tuple[str, ...]) -> None:
    made = nine()
    more = np.cumsum(made.signals[:, :1], axis=2) / 50 + 1013
    wide = replace(
        made, signals=np.concatenate([made.signals, more, more], axis=1), channels=(*made.channels, "pre", "heart_rate")
    )
    chosen = wide.with_channels(channels)
    net = fit_network(chosen, replace(QUICK, epochs=2), spectrogram=SMALL)
    assert net.channels == channels
    features = features_of(net, chosen)
    assert np.isfinite(features).all()
    assert np.isfinite(score_quality(chosen, features, Head.of(net), train=np.ones(len(chosen), bool)).score).all()
    fitted = fit_head(features, chosen.scenes, np.ones(len(chosen)), start=Head.of(net), pull=1e-5)
    assert (fitted.logits(features).argmax(1) == chosen.scenes).mean() > 0.8, "the features say nothing about the scene"
