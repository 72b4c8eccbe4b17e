"""Signals → log-spectrogram images, as a part of the model, so that whoever holds the model can feed it raw signals.

Each triad of axes also gives its norm, which does not depend on how the phone is held. The mean of a window (gravity, the
earth's field, a sensor's bias) is taken away.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from training.errors import SettingsError
from training.settings import SpectrogramSettings

_NOTHING = 1e-12
"""Power, in the channel's unit squared, below which there is no signal."""
_LEAST_SEGMENT = 4
"""Samples: two frequencies beside the mean."""


def by_sensor(channels: Sequence[str]) -> dict[str, list[int]]:
    """Positions of each sensor's channels, which begin with its name: ``{"acc": [0, 1, 2], "pressure": [3]}``."""
    found: dict[str, list[int]] = {}
    for at, channel in enumerate(channels):
        found.setdefault(channel.split("_")[0], []).append(at)
    return found


def triads(channels: Sequence[str]) -> dict[str, tuple[int, int, int]]:
    """Positions of the three axes of each sensor that has them all: ``{"acc": (0, 1, 2)}``."""
    prefixes = dict.fromkeys(channel[:-2] for channel in channels if channel[-2:] in {"_x", "_y", "_z"})
    axes = {prefix: tuple(f"{prefix}_{axis}" for axis in "xyz") for prefix in prefixes}
    return {
        prefix: (channels.index(x), channels.index(y), channels.index(z))
        for prefix, (x, y, z) in axes.items()
        if {x, y, z} <= set(channels)
    }


class Spectrogram(nn.Module):
    """(n, channels, samples) → (n, channels + norms, bands, frames), each channel with mean 0 and variance 1 over the source.

    NaN is a missing sample: it counts for nothing, and a channel that is missing altogether is an image of zeros. So is one that the
    source never had: nothing was learned about it. Low rates have fewer frequencies than ``bands``, and then fewer bands.

    Raises:
        SettingsError: there is no such image of windows of so many samples.
    """

    def __init__(self, channels: Sequence[str], settings: SpectrogramSettings, *, rate_hz: float, samples: int) -> None:
        super().__init__()
        _check(settings, rate_hz=rate_hz, samples=samples)
        self.settings = settings
        self.triads = triads(channels)
        self.names = (*channels, *(f"{prefix}_norm" for prefix in self.triads))
        self.segment = round(settings.segment.total_seconds() * rate_hz)
        self.hop = max(1, (samples - self.segment) // (settings.frames - 1))
        self.columns = min(settings.frames, (samples - self.segment) // self.hop + 1)
        """Of an image: fewer than ``frames`` where there are not so many places for a segment."""
        self.register_buffer("window", torch.hann_window(self.segment), persistent=False)
        self.register_buffer("bands", _bands(self.segment, settings.bands), persistent=False)
        self.register_buffer("floor", torch.full((len(self.names), 1, 1), 1e-6))
        self.register_buffer("mean", torch.zeros(len(self.names), 1, 1))
        self.register_buffer("scale", torch.ones(len(self.names), 1, 1))
        self.window: Tensor
        self.bands: Tensor
        self.floor: Tensor
        self.mean: Tensor
        self.scale: Tensor

    def forward(self, signals: Tensor) -> Tensor:
        """Images of signals (n, channels, samples); a missing sensor is all zeros.

        They are float32 always: a power has more digits than bfloat16.
        """
        with torch.autocast(signals.device.type, enabled=False):
            return self._images(signals)

    def _images(self, signals: Tensor) -> Tensor:
        power, present = self._power(signals)
        images = ((power + self.floor).log() - self.mean) / self.scale
        return images * present

    def _power(self, signals: Tensor) -> tuple[Tensor, Tensor]:
        """Band powers (n, channels, bands, frames), and (n, channels, 1, 1) whether there is anything of the channel."""
        # Stacked: to index with a list copies it to the device, and a GPU would have to wait for that.
        norms = [
            torch.stack([signals[:, at] for at in axes], 1).square().sum(1, keepdim=True).sqrt()
            for axes in self.triads.values()
        ]
        signals = torch.cat([signals, *norms], 1)
        known = ~signals.isnan()
        count = known.sum(-1, keepdim=True)
        signals = torch.where(known, signals, 0.0)
        signals = torch.where(known, signals - signals.sum(-1, keepdim=True) / count.clamp(min=1), 0.0)
        n, channels, samples = signals.shape
        spectrum = torch.stft(
            signals.reshape(n * channels, samples),
            self.segment,
            self.hop,
            window=self.window,
            center=False,
            return_complex=True,
        )
        power = torch.view_as_real(spectrum).square().sum(-1)[..., : self.settings.frames] / self.window.square().sum()
        bands = torch.einsum("bf,nft->nbt", self.bands, power)
        return bands.reshape(n, channels, len(self.bands), -1), (count > 0).unsqueeze(-1)

    @torch.no_grad()
    def fit(self, signals: Tensor) -> None:
        """Measure floor, mean and scale of each channel on source signals (n, channels, samples)."""
        power, present = self._power(signals)
        weight = present.expand_as(power).to(power.dtype)
        total = weight.sum((0, 2, 3)).clamp(min=1)[:, None, None]
        average = (power * weight).sum((0, 2, 3))[:, None, None] / total
        self.floor.copy_((self.settings.floor * average).clamp(min=_NOTHING))
        logs = (power + self.floor).log()
        mean = (logs * weight).sum((0, 2, 3))[:, None, None] / total
        self.mean.copy_(mean)
        variance = ((logs - mean).square() * weight).sum((0, 2, 3))[:, None, None] / total
        # Without a signal the least scale would make the images of a phone that has one drown all others: none at all is zeros.
        self.scale.copy_(torch.where(average > _NOTHING, variance.sqrt().clamp(min=1e-3), torch.inf))


def _check(settings: SpectrogramSettings, *, rate_hz: float, samples: int) -> None:
    seconds, least = settings.segment.total_seconds(), _LEAST_SEGMENT / rate_hz
    segment = round(seconds * rate_hz)
    msg = ""
    if segment < _LEAST_SEGMENT:
        msg = f"[spectrogram] segment = {seconds:g} s is too short at {rate_hz:g} Hz: at least {least:g} s are needed"
    elif segment > samples:
        msg = (
            f"[spectrogram] segment = {seconds:g} s is longer than the windows of {samples / rate_hz:g} s: "
            "set a shorter one, or a longer [windows] length"
        )
    if msg:
        raise SettingsError(msg)


def _bands(segment: int, bands: int) -> Tensor:
    """(bands, frequencies) triangles, one bin apart at first and ever wider above: steps below, engines and rails above."""
    top = segment // 2
    if bands >= top:
        return torch.eye(top + 1)[1 : bands + 1]
    # One bin a band at the bottom, then by a constant factor up to the highest frequency.
    edges = [1.0]
    low, high = 1.0, 2.0
    for _ in range(60):
        factor = (low + high) / 2
        edges = [1.0]
        while len(edges) < bands + 1:
            edges.append(max(edges[-1] + 1, edges[-1] * factor))
        low, high = (factor, high) if edges[-1] < top else (low, factor)
    centres = torch.tensor([0.0, *edges])
    frequency = torch.arange(top + 1, dtype=torch.float32)
    up = (frequency - centres[:-2, None]) / (centres[1:-1] - centres[:-2])[:, None]
    down = (centres[2:, None] - frequency) / (centres[2:] - centres[1:-1])[:, None]
    triangles = torch.minimum(up, down).clamp(min=0)
    return triangles / triangles.sum(1, keepdim=True)
