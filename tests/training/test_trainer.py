"""What is trained of a network; that it is trained to the same bits is tested with fine-tuning as a whole."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
import torch

from tests.training.made import SMALL, network, windows
from training.losses import CROSS_ENTROPY
from training.network import SceneNet, infer
from training.settings import ComputeSettings, FineTuneSettings
from training.step import Stepper
from training.trainer import Trainer

QUICK = FineTuneSettings(epochs=1, batch=16, threads=1, device="cpu")


@pytest.mark.parametrize(("seconds", "frames", "columns", "dtype"), [
    (0.64, 16, 16, torch.float32), (0.64, 17, 17, torch.bfloat16), (1.8, 32, 11, torch.float32),
])  # fmt: skip
def test_no_bfloat16_where_a_strided_convolution_has_one_column(
    monkeypatch: pytest.MonkeyPatch, seconds: float, frames: int, columns: int, dtype: torch.dtype
) -> None:
    """OneDNN makes up its gradient. Columns are those of the images: a long segment has fewer places than there are frames."""
    seen, made = list[Stepper](), Stepper.begin

    def beginning(stepper: Stepper, rate: float, weights: torch.Tensor) -> None:
        seen.append(stepper)
        made(stepper, rate, weights)

    monkeypatch.setattr(Stepper, "begin", beginning)
    few, spectrogram = windows(people=1, each=2), replace(SMALL, frames=frames, segment=timedelta(seconds=seconds))
    net = SceneNet(
        channels=few.channels, scenes=few.scene_names, rate_hz=few.rate_hz, samples=100, spectrogram=spectrogram, architecture="resnet18"
    ).eval()  # fmt: skip
    assert net.spectrogram(torch.from_numpy(few.signals)).shape[-1] == columns
    trainer = Trainer(
        net, torch.from_numpy(few.signals), few.scenes, np.ones(len(few)), adjust=False, sampler=None, loss=CROSS_ENTROPY,
        settings=replace(QUICK, trainable="all"), compute=ComputeSettings(precision="bfloat16"),
    )  # fmt: skip
    trainer.restart(np.arange(len(few)), 1e-3)
    assert seen[0]._precision == dtype


@pytest.mark.parametrize(("part", "whole"), [("block", False), ("all", True)])
def test_batch_norm_learns_and_signals_are_changed_of_a_whole_network_alone(
    monkeypatch: pytest.MonkeyPatch, part: Any, whole: bool
) -> None:
    """And a CPU's bfloat16 is for it alone."""
    seen, made = list[tuple[bool, bool]](), Stepper.__init__

    def making(stepper: Stepper, *arguments: Any, **named: Any) -> None:
        seen.append((named["whole"], named["change"] is not None))
        made(stepper, *arguments, **named)

    monkeypatch.setattr(Stepper, "__init__", making)
    net, few = network(), windows(people=1, each=2)
    cached = infer(net.split(part)[0], torch.from_numpy(few.signals))
    Trainer(
        net, cached, few.scenes, np.ones(len(few)), adjust=False, sampler=None, loss=CROSS_ENTROPY, settings=replace(QUICK, trainable=part),
        compute=ComputeSettings(),
    )  # fmt: skip
    assert seen == [(whole, whole)]


def test_other_weights_hold_from_the_next_training_on() -> None:
    net, few = network(), windows(people=2, each=3)
    cached = infer(net.split("block")[0], torch.from_numpy(few.signals))
    every, uneven = np.arange(len(few)), np.where(few.scenes == 0, 1.0, 0.05)

    def trainer(weights: np.ndarray) -> Trainer:
        return Trainer(
            net, cached, few.scenes, weights, adjust=True, sampler=None, loss=CROSS_ENTROPY,
            settings=replace(QUICK, trainable="block", learning_rate=1e-3), compute=ComputeSettings(),
        )  # fmt: skip

    def trained(by: Trainer) -> str:
        for _ in by.cycle(every, 1e-3, 1, state={}, stretch=0):
            pass
        return by.result(1.0).digest()

    weighed = trainer(np.ones(len(few)))
    even = weighed.fitted(every, 1e-3)
    weighed.weigh(uneven)
    assert not np.array_equal(weighed.fitted(every, 1e-3).weight, even.weight), "of a head as well"
    assert trained(weighed) == trained(trainer(uneven)) != trained(trainer(np.ones(len(few))))
