"""Where a training stands, so that a killed one goes on instead of beginning anew.

A file of tensors and numbers (loadable with ``weights_only=True``) behind their digest, whole or not at all. It names the training that
it is of: another one's is not taken up, and neither is a damaged one; then the training begins at the beginning.
"""

from __future__ import annotations

import copy
import hashlib
import io
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

_OF = "training"
_DIGEST = 32
"""Bytes: a flipped bit is another model, and torch.load would not see it."""


class Checkpoint:
    """The checkpoint of one training."""

    def __init__(
        self, path: Path | None, training: str, *, every: timedelta, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Nothing is read yet.

        Args:
            path: the file; None: nothing is kept.
            training: digest of everything that decides what the training does.
            every: time between two of them.
            clock: seconds.
        """
        self._path, self._training, self._every, self._clock = path, training, every.total_seconds(), clock
        self._last = clock()
        self._held: dict[str, Any] = {}

    def load(self) -> dict[str, Any]:
        """What was saved last; empty if nothing was, or nothing of this training."""
        if self._path is None:
            return {}
        try:
            content = self._path.read_bytes()
        except OSError:
            return {}
        if content[:_DIGEST] != hashlib.blake2b(content[_DIGEST:], digest_size=_DIGEST).digest():
            return {}
        state: dict[str, Any] = torch.load(io.BytesIO(content[_DIGEST:]), weights_only=True, map_location="cpu")
        return state if state[_OF] == self._training else {}

    def save(self, state: Callable[[], dict[str, Any]]) -> bool:
        """Save what ``state`` returns, if it is time to; says whether it was."""
        if self._path is None or self._clock() - self._last < self._every:
            return False
        self._write(self._content(state()))
        self._held, self._last = {}, self._clock()
        return True

    def hold(self, state: Callable[[], dict[str, Any]]) -> None:
        """Have what ``state`` returns at hand, in memory, for :meth:`saved_when_stopped`."""
        if self._path is not None:
            # A copy, since the training goes on in place; it becomes bytes only if it is needed.
            self._held = copy.deepcopy(state())

    @contextmanager
    def saved_when_stopped(self) -> Iterator[None]:
        """Save what is held when the process is told to stop (SIGTERM that became SystemExit, Ctrl-C) in the middle of what follows."""
        try:
            yield
        except (SystemExit, KeyboardInterrupt):
            if self._held:
                self._write(self._content(self._held))
            raise

    def _content(self, state: dict[str, Any]) -> memoryview:
        buffer = io.BytesIO()
        torch.save({**state, _OF: self._training}, buffer)
        return buffer.getbuffer()

    def _write(self, content: memoryview) -> None:
        if self._path is None:  # pragma: no cover - nothing is ever held then
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        with partial.open("wb") as file:
            file.write(hashlib.blake2b(content, digest_size=_DIGEST).digest())
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self._path)
