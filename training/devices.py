"""Where and with how many threads to compute."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from training.errors import SettingsError


def device(name: str) -> torch.device:
    """The device of a setting: ``auto`` is a CUDA device where there is one.

    Raises:
        SettingsError: there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name not in {"cpu", "cuda"}:
        msg = f"device = {name!r} is none of auto, cpu, cuda"
        raise SettingsError(msg)
    if name == "cuda" and not torch.cuda.is_available():
        msg = "device = 'cuda', but PyTorch finds no CUDA device on this machine: set it to auto or cpu"
        raise SettingsError(msg)
    return torch.device(name)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute with so many threads inside the block; 0 leaves it as it is."""
    before = torch.get_num_threads()
    if count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """PyTorch's global generators (they draw a new layer's weights) start at ``seed`` inside the block, and are as before after it."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
