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
        generator: where randomness comes from; best on the signals' device, which then need not wait.
    """
    n, where = len(signals), generator.device
    # One channel after the other: to index with a list copies it to the device, and a GPU would have to wait for that.
    axes = list(signals.unbind(1))
    if rotate:
        rotation = _rotations(n, generator).to(signals)
        for triad in triads(channels).values():
            held = torch.stack([axes[at] for at in triad], 1)
            # Where a phone has not all three, none can be turned: each would be made of one that is not there.
            complete = ~held.isnan().all(-1).any(1)
            turned = torch.where(complete[:, None, None], rotation @ held, held)
            for at, axis in zip(triad, turned.unbind(1), strict=True):
                axes[at] = axis
    sensors = list(by_sensor(channels).values())
    factor = torch.exp(gain * torch.randn(n, len(sensors), generator=generator, device=where)).to(signals)
    missing = (torch.rand(n, len(sensors), generator=generator, device=where) < sensor_dropout).to(signals.device)
    absent = [axis.isnan().all(-1) for axis in axes]
    there = torch.stack([~torch.stack([absent[at] for at in mine], 1).all(1) for mine in sensors], 1)
    missing = missing & ~(missing | ~there).all(1, keepdim=True)
    factor = factor.masked_fill(missing, torch.nan)
    for which, mine in enumerate(sensors):
        for at in mine:
            axes[at] = axes[at] * factor[:, which, None]
    return torch.stack(axes, 1)


def _rotations(n: int, generator: torch.Generator) -> Tensor:
    """(n, 3, 3) rotations, uniform over all of them: unit quaternions of normal numbers (Muller, 1959; Shoemake, 1992)."""
    quaternion = torch.nn.functional.normalize(torch.randn(n, 4, generator=generator, device=generator.device), dim=1)
    w, x, y, z = quaternion.unbind(1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], 1),
        torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], 1),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], 1),
    ]
    return torch.stack(rows, 1)
