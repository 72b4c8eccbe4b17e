"""ResNet-34 over spectrograms: raw signals in, one logit a scene out, and everything it needs to know about itself inside.

A saved model is a folder of ``state.pt`` (tensors only) and ``model.json`` (what they mean); no pickled code.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import math
import os
import pickle
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torchvision.models
from torch import Tensor, nn

from training.errors import ModelError
from training.saved import CONFIG, read_config
from training.settings import SpectrogramSettings, Trainable
from training.spectrogram import Spectrogram

if TYPE_CHECKING:
    from training.dataset import WindowSet

STATE = "state.pt"
_COLUMNS_TO_ONE = 16
"""Columns of a spectrogram of which one is left before a ResNet's last stage."""


class SceneNet(nn.Module):
    """Signals (n, channels, samples) → logits (n, scenes)."""

    def __init__(
        self,
        *,
        channels: Sequence[str],
        scenes: Sequence[str],
        rate_hz: float,
        samples: int,
        spectrogram: SpectrogramSettings | None = None,
        architecture: str = "resnet34",
    ) -> None:
        """Random weights.

        Args:
            channels: names of the channels that it is fed, in order.
            scenes: names of the logits, in order.
            rate_hz: samples per second of the signals.
            samples: length of the signals.
            spectrogram: how images are made.
            architecture: a ResNet of torchvision.
        """
        super().__init__()
        self.channels, self.scenes = tuple(channels), tuple(scenes)
        self.rate_hz, self.samples, self.architecture = rate_hz, samples, architecture
        self.spectrogram = Spectrogram(channels, spectrogram or SpectrogramSettings(), rate_hz=rate_hz, samples=samples)
        build = {"resnet34": torchvision.models.resnet34, "resnet18": torchvision.models.resnet18}.get(architecture)
        if build is None:
            msg = f"There is no architecture {architecture!r}: set [original] architecture to resnet34 or resnet18"
            raise ModelError(msg)
        self.backbone = build(weights=None, num_classes=len(scenes))
        stem = nn.Conv2d(len(self.spectrogram.names), 64, 7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
        self.backbone.conv1 = stem

    def forward(self, signals: Tensor) -> Tensor:
        """Logits (n, scenes) of signals (n, channels, samples)."""
        logits: Tensor = self.backbone(self.spectrogram(signals))
        return logits

    @property
    def narrow(self) -> bool:
        """Whether its last stage, which begins with a strided convolution, gets images of one column."""
        return self.spectrogram.columns <= _COLUMNS_TO_ONE

    def split(self, trainable: Trainable) -> tuple[nn.Sequential, nn.Sequential]:
        """The frozen part, from signals to what is worth caching, and the trained part, from there to logits.

        Both share their parameters with this network. Of all of it nothing is cached: signals are changed before each step.
        """
        net = self.backbone
        stem = [self.spectrogram, net.conv1, net.bn1, net.relu, net.maxpool, net.layer1, net.layer2, net.layer3]
        blocks = [*stem, *net.layer4, nn.Sequential(net.avgpool, nn.Flatten()), net.fc]
        cut = {"head": len(blocks) - 1, "block": len(blocks) - 3, "layer4": len(stem), "all": 0}[trainable]
        return nn.Sequential(*blocks[:cut]), nn.Sequential(*blocks[cut:])

    def require_fit(self, windows: WindowSet) -> None:
        """Let windows pass that are cut as those were that this network has learned from.

        Without it nothing would be said: a spectrogram of another rate has other frequencies in its bins, and a residual network takes
        images of any size.

        Raises:
            ModelError: they have another rate or another length.
        """
        length = windows.signals.shape[2]
        if not math.isclose(windows.rate_hz, self.rate_hz, rel_tol=1e-3) or length != self.samples:
            msg = (
                f"The windows have {length} samples at {windows.rate_hz:g} Hz, those that this model has learned from {self.samples} at "
                f"{self.rate_hz:g} Hz. Set [windows] rate_hz and length to the model's and ingest into a new lake, or train an original "
                "model on windows that are cut like these."
            )
            raise ModelError(msg)

    def aligned(self, windows: WindowSet) -> WindowSet:
        """Windows with the channels and scenes of this network, in its order; NaN where a channel is not there.

        Raises:
            ModelError: they have another rate or another length.
            MissingScene: they are labelled with scenes that it does not know.
        """
        self.require_fit(windows)
        return windows.with_channels(self.channels).with_scenes(self.scenes)

    def clone(self) -> SceneNet:
        """A copy that shares nothing."""
        return copy.deepcopy(self)

    def config(self) -> dict[str, Any]:
        """What :meth:`build` needs, as plain JSON values."""
        spectrogram = dataclasses.asdict(self.spectrogram.settings)
        spectrogram = {
            key: value.total_seconds() if isinstance(value, timedelta) else value for key, value in spectrogram.items()
        }
        return {
            "architecture": self.architecture,
            "channels": list(self.channels),
            "scenes": list(self.scenes),
            "rate_hz": self.rate_hz,
            "samples": self.samples,
            "spectrogram": spectrogram,
        }

    @classmethod
    def build(cls, config: Mapping[str, Any]) -> SceneNet:
        """A network with random weights from :meth:`config`."""
        spectrogram = dict(config["spectrogram"])
        spectrogram["segment"] = timedelta(seconds=spectrogram["segment"])
        return cls(**{**config, "spectrogram": SpectrogramSettings(**spectrogram)})

    def digest(self) -> str:
        """16 hex digits of the configuration and of every parameter and buffer."""
        digest = hashlib.blake2b(json.dumps(self.config(), sort_keys=True).encode(), digest_size=8)
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().data)
        return digest.hexdigest()

    def save(self, folder: Path, extra: Mapping[str, Any] | None = None) -> None:
        """Write ``state.pt`` and ``model.json`` into a folder; ``model.json`` last, so that a half-written model is none."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, write in (
            (STATE, lambda path: torch.save({k: v.cpu() for k, v in self.state_dict().items()}, path)),
            (CONFIG, lambda path: path.write_text(json.dumps({**self.config(), **(extra or {})}, indent=1) + "\n")),
        ):
            partial = folder / f".{name}.{os.getpid()}"
            write(partial)
            partial.replace(folder / name)

    @classmethod
    def load(cls, folder: Path) -> SceneNet:
        """Read what :meth:`save` wrote.

        Raises:
            ModelError: there is no model, or its two files do not fit each other.
        """
        config = read_config(folder)
        try:
            net = cls.build(
                {
                    key: config[key]
                    for key in ("architecture", "channels", "scenes", "rate_hz", "samples", "spectrogram")
                }
            )
            net.load_state_dict(torch.load(folder / STATE, weights_only=True, map_location="cpu"))
        except (OSError, EOFError, KeyError, TypeError, RuntimeError, pickle.UnpicklingError) as error:
            # torch's messages run over many lines.
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            msg = f"The model in {folder} cannot be read: {reason}"
            raise ModelError(msg) from error
        return net.eval()


def learned_statistics(module: nn.Module) -> dict[str, Tensor]:
    """Name → what batch norm remembers of what it has seen: running means and variances, which are in no gradient."""
    return {
        f"{name}.{kind}": getattr(each, kind)
        for name, each in module.named_modules()
        if isinstance(each, nn.BatchNorm1d | nn.BatchNorm2d)
        for kind in ("running_mean", "running_var")
    }


def placed(module: nn.Module, where: torch.device | None) -> nn.Module:
    """The module on a device (None: where it is); a copy if it has to move, so that the network it is part of stays where it is."""
    here = next((each.device for each in (*module.parameters(), *module.buffers())), where)
    return module if where is None or here is None or here.type == where.type else copy.deepcopy(module).to(where)


def infer(module: nn.Module, inputs: Tensor, *, batch: int = 256, where: torch.device | None = None) -> Tensor:
    """``module`` over many rows, a batch at a time, in evaluation mode and without gradients; the result is on the CPU.

    It is computed on the device ``where``; None: where the module is. Of a container with nothing in it the result is the inputs.
    """
    if isinstance(module, nn.Sequential) and not len(module):  # nothing is frozen
        return inputs
    module = placed(module.eval(), where)
    device = next((p.device for p in (*module.parameters(), *module.buffers())), inputs.device)
    with torch.inference_mode():
        parts = [
            module(inputs[at : at + batch].to(device, non_blocking=True)).cpu() for at in range(0, len(inputs), batch)
        ]
    # Outside of it, so that the result can be trained on without another copy.
    return torch.cat(parts)
