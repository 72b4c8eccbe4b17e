"""Where and with how many threads to compute, in which precision, and where the data lie."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from training.errors import SettingsError
from training.settings import ComputeSettings

# cuBLAS reads it at its first call, whoever makes that, and is the same each time only with it; see :func:`reproducible`.
# https://docs.nvidia.com/cuda/cublas/#results-reproducibility
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

_STEPS_WORTH_COMPILING = 10_000
"""Compiling a ResNet-34 takes about a minute; a step of 64 small images can save some milliseconds."""


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


@contextmanager
def reproducible(*, wanted: bool) -> Iterator[None]:
    """The same bits each time inside the block, on a GPU as well; what has no such kernel raises a RuntimeError that says so."""
    if not wanted:
        yield
        return
    before, tuned = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)  # noqa: FBT003  (torch's signature)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.backends.cudnn.benchmark = tuned


def precision(
    where: torch.device, settings: ComputeSettings, *, whole: bool = False, narrow: bool = False
) -> torch.dtype:
    """What a network computes in while it is trained on a device.

    Args:
        where: the device.
        settings: what is wanted.
        whole: whether it is a whole network that is fine-tuned: on a CPU nothing less gains by bfloat16.
        narrow: whether a strided convolution is fed a single column: oneDNN makes up its bfloat16 gradient from memory that nobody
            wrote to (torch 2.13; seen from 1e36 to a few percent off), whatever is wanted.
    """
    if narrow and where.type == "cpu":
        return torch.float32
    if settings.precision == "auto":
        has = torch.cuda.is_bf16_supported() if where.type == "cuda" else whole and computes_bfloat16()
        return torch.bfloat16 if has else torch.float32
    return torch.bfloat16 if settings.precision == "bfloat16" else torch.float32


def computes_bfloat16() -> bool:
    """Whether this CPU has instructions for it; without, torch converts to float32 and back, which takes longer."""
    can = torch.cpu.get_capabilities()
    return any(can.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def laid_out(tensor: Tensor, where: torch.device) -> Tensor:
    """Images as the device likes them: on a GPU, channels last, which is how its convolutions in bfloat16 read them."""
    if where.type == "cuda" and tensor.ndim == 4:
        return tensor.contiguous(memory_format=torch.channels_last)
    return tensor


def compiled(module: nn.Module, where: torch.device, settings: ComputeSettings, *, steps: int) -> nn.Module:
    """The module, or what torch.compile makes of it, if so many steps are worth it."""
    worth = where.type == "cuda" and steps >= _STEPS_WORTH_COMPILING
    if settings.compiled == "off" or (settings.compiled == "auto" and not worth):
        return module
    return cast("nn.Module", torch.compile(module))


class Held:
    """Rows of a data set on the device where they are computed with, or, if they do not fit there, one step's at a time."""

    def __init__(self, data: Tensor, where: torch.device, settings: ComputeSettings) -> None:
        """Put it where it fits.

        Args:
            data: (n, …), on the CPU; never written to.
            where: the device.
            settings: how much of its memory the data may take.
        """
        self._where = where
        data = data.clone() if data.is_inference() else data  # what inference made, autograd refuses
        if where.type == "cuda" and data.nbytes > settings.resident * torch.cuda.mem_get_info(where)[0]:
            self._data, self.lies = data, torch.device("cpu")
        else:
            self._data, self.lies = laid_out(data.to(where), where), where

    def __len__(self) -> int:
        return len(self._data)

    def rows(self, which: Tensor) -> Tensor:
        """These rows on the device; ``which`` is best where the data lie."""
        if self.lies == self._where:
            return laid_out(self._data[which], self._where)
        # From pinned memory the copy goes on beside what is computed, from other memory it would not.
        rows = torch.empty((len(which), *self._data.shape[1:]), dtype=self._data.dtype, pin_memory=True)
        torch.index_select(self._data, 0, which.to(self.lies), out=rows)
        return laid_out(rows.to(self._where, non_blocking=True), self._where)

    def batches(self, size: int) -> Iterator[Tensor]:
        """All rows on the device, so many at a time."""
        for part in torch.split(self._data, size):
            yield laid_out(part.to(self._where, non_blocking=True), self._where)
