"""Windows without meaning for benchmarks of speed: what a network computes takes as long whatever it is shown."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from training.dataset import WindowSet
from training.network import SceneNet
from training.settings import DataSettings

SCENES = ("Bike", "Bus", "Car", "Run", "Still", "Subway", "Train", "Walk")
RATE, SAMPLES = 50.0, 250
_DAY_NS = 86_400 * 10**9


def noise(count: int, *, days: int = 1, seed: int = 0) -> WindowSet:
    """So many windows of nine channels, 5 s at 50 Hz, shared out over event dates."""
    rng = np.random.default_rng(seed)
    channels = DataSettings().channels
    subjects = np.array([f"p{at % 20:02d}" for at in range(count)])
    made = WindowSet.of(
        rng.normal(0, 3, (count, len(channels), SAMPLES)).astype(np.float32), np.arange(count) % len(SCENES), subjects,
        channels=channels, scene_names=SCENES, rate_hz=RATE,
    )  # fmt: skip
    sessions = np.array([f"s{seed}-{at % days}" for at in range(count)])
    return replace(
        made, sessions=sessions, start_ns=(np.arange(count) % days) * _DAY_NS + np.arange(count) // days * 10**9
    )


def network() -> SceneNet:
    """A ResNet-34 that nobody has trained."""
    torch.manual_seed(0)
    made = noise(64)
    net = SceneNet(channels=made.channels, scenes=SCENES, rate_hz=RATE, samples=SAMPLES)
    net.spectrogram.fit(torch.from_numpy(made.signals))
    return net.eval()
