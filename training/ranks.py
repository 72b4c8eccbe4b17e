"""Several processes that train one model, as ``torchrun`` starts them, each with a GPU of its own or, with gloo, a part of the CPU.

Every process holds the whole data set and makes the same choices; of each step it takes its share of the windows. Since the weights
of all windows are known everywhere, Σ w over all processes needs no message: what is summed are the gradients, once a step,
and, once an epoch, what batch norm of a whole network has learned.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

_Value = TypeVar("_Value")


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranks:
    """Who this process is among those that train together."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes files."""
        return self.rank == 0

    def share(self, rows: Tensor) -> Tensor:
        """This process's part of a step's rows; the parts of all are the step."""
        return rows[self.rank :: self.world]

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their sums over all processes, with one message."""
        if self.world == 1:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        distributed.all_reduce(flat)
        for tensor, summed in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(summed.view_as(tensor))

    def agreed(self, value: _Value) -> _Value:
        """The first process's value, everywhere: a choice that would differ in the last bit must not part them."""
        if self.world == 1:
            return value
        values: list[Any] = [value]
        distributed.broadcast_object_list(values)
        found: _Value = values[0]
        return found


def ranks() -> Ranks:
    """Who this process is; alone, unless :func:`together` is around it."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return Ranks()
    return Ranks(rank=distributed.get_rank(), world=distributed.get_world_size())


@contextmanager
def together(where: torch.device) -> Iterator[Ranks]:
    """Join the processes that ``torchrun`` has started with this one; without it, be alone.

    Args:
        where: what they compute on; of several GPUs each process takes the one that ``torchrun`` gave it.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or distributed.is_initialized():
        yield ranks()
        return
    if where.type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    distributed.init_process_group("nccl" if where.type == "cuda" else "gloo")
    try:
        yield ranks()
    finally:
        distributed.destroy_process_group()
