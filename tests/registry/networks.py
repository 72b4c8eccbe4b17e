"""Small networks of the recogniser's kind: log-spectrogram, convolution, logits."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TinyNetwork(nn.Module):
    """signals [n, 3, 250] → logits [n, 4]; with dropout and batch norm, whose modes an export must get right."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.register_buffer("window", torch.hann_window(64))
        self.body = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(4, 4),
        )

    def forward(self, signals: Tensor) -> Tensor:
        n, channels, time = signals.shape
        flat = signals.reshape(n * channels, time)
        spectrum = torch.stft(flat, 64, hop_length=16, window=self.window, return_complex=True).abs()
        return self.body(torch.log1p(spectrum).reshape(n, channels, *spectrum.shape[1:]))


class NoisyNetwork(TinyNetwork):
    """Computes something else each time."""

    def forward(self, signals: Tensor) -> Tensor:
        return super().forward(signals) + torch.randn(1)


class SilentNetwork(TinyNetwork):
    """Not a number."""

    def forward(self, signals: Tensor) -> Tensor:
        return super().forward(signals) * torch.nan


class BranchingNetwork(TinyNetwork):
    """What it computes depends on what it sees, which a graph cannot say."""

    def forward(self, signals: Tensor) -> Tensor:
        return super().forward(signals) if bool(signals.sum() > 0) else super().forward(-signals)
