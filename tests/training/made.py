"""Small window sets whose scenes can be told apart, and a network that knows them a little."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import torch

from training.dataset import WindowSet
from training.network import SceneNet
from training.settings import SpectrogramSettings

CHANNELS = ("acc_x", "acc_y", "acc_z")
SCENES = ("Run", "Still", "Walk")
RATE, SAMPLES = 50.0, 100
SMALL = SpectrogramSettings(segment=timedelta(seconds=0.64), bands=16, frames=16)


def windows(*, people: int = 6, each: int = 8, seed: int = 0, counts: tuple[int, ...] | None = None) -> WindowSet:
    """``each`` windows of every scene and person: gravity, and an oscillation of the scene's frequency."""
    rng = np.random.default_rng(seed)
    per_scene = counts or (each,) * len(SCENES)
    signals, scenes, subjects = [], [], []
    time = np.arange(SAMPLES) / RATE
    for person in range(people):
        for scene, (frequency, size) in enumerate(((6.0, 6.0), (0.0, 0.0), (2.0, 2.0))):
            for _ in range(per_scene[scene]):
                wave = size * np.sin(2 * np.pi * (frequency * time + rng.random()))
                noise = rng.normal(0, 0.3, (3, SAMPLES))
                signals.append(np.stack([wave, 0.5 * wave, 9.81 + wave]) + noise)
                scenes.append(scene)
                subjects.append(f"p{person}")
    count = len(scenes)
    return WindowSet(
        signals=np.asarray(signals, np.float32), channels=CHANNELS, rate_hz=RATE, scenes=np.asarray(scenes, np.int64),
        scene_names=SCENES, subjects=np.asarray(subjects), sessions=np.asarray([f"s{i}" for i in range(count)]),
        devices=np.asarray([f"d-{s}" for s in subjects]), window_ids=np.asarray([f"w{i:04d}" for i in range(count)]),
        start_ns=np.arange(count, dtype=np.int64) * 10**9, coverage=np.ones(count, np.float32), version=3,
    )  # fmt: skip


def network() -> SceneNet:
    """An untrained one, resnet18 so that tests are quick."""
    torch.manual_seed(0)
    net = SceneNet(
        channels=CHANNELS, scenes=SCENES, rate_hz=RATE, samples=SAMPLES, spectrogram=SMALL, architecture="resnet18"
    )
    net.spectrogram.fit(torch.from_numpy(windows().signals))
    return net.eval()
