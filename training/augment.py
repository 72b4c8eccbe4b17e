"""Cheap changes to signals that leave the scene what it is: another pocket, another phone, a sensor that is not there."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from training.spectrogram import by_sensor, triads


def augment(
    signals: Tensor,
    channels: Sequence[str],
    *,
    rotate: bool,
    gain: float,
    sensor_dropout: float,
    generator: torch.Generator,
) -> Tensor:
    """A changed copy of signals (n, channels, samples).

    Args:
        signals: the windows.
        channels: names of their channels.
        rotate: turn the phone: one random rotation a window, the same for all its sensors.
        gain: standard deviation of the logarithm of a factor, one for each window and sensor.
        sensor_dropout: probability that a sensor of a window is missing; never all that the phone has.
        generator: where randomness comes from.
    """
    signals = signals.clone()
    n = len(signals)
    if rotate:
        rotation = _rotations(n, generator).to(signals)
        for axes in triads(channels).values():
            signals[:, list(axes)] = rotation @ signals[:, list(axes)]
    sensors = list(by_sensor(channels).values())
    owner = torch.empty(len(channels), dtype=torch.int64)
    for at, mine in enumerate(sensors):
        owner[mine] = at
    factor = torch.exp(gain * torch.randn(n, len(sensors), generator=generator)).to(signals)
    missing = (torch.rand(n, len(sensors), generator=generator) < sensor_dropout).to(signals.device)
    absent = signals.isnan().all(-1)
    there = torch.stack([~absent[:, owner == at].all(1) for at in range(len(sensors))], 1)
    missing = missing & ~(missing | ~there).all(1, keepdim=True)
    factor = factor.masked_fill(missing, torch.nan)
    return signals * factor[:, owner.to(signals.device), None]


def _rotations(n: int, generator: torch.Generator) -> Tensor:
    """(n, 3, 3) rotations, uniform over all of them: unit quaternions of normal numbers (Muller, 1959; Shoemake, 1992)."""
    quaternion = torch.nn.functional.normalize(torch.randn(n, 4, generator=generator), dim=1)
    w, x, y, z = quaternion.unbind(1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], 1),
        torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], 1),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], 1),
    ]
    return torch.stack(rows, 1)
