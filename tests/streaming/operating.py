"""What the tests of operating ingestion share: phones that go on, and a disk that is full."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from streaming.wire import SensorBatch

from .ingesting import session
from .sessions import batch

FOLDER_IS_FULL = OSError(28, "No space left on device")


def endless(seconds: int, name: str = "s1") -> list[SensorBatch]:
    return session(seconds + 1, name)[:-1]


def interleaved(phones: int, *, seconds: int, prefix: str = "m", ended: bool = False) -> Iterator[SensorBatch]:
    for i in range(seconds):
        for phone in range(phones):
            yield batch(i, session=f"{prefix}-{phone}", device=f"{prefix}-{phone}", end=ended and i == seconds - 1)


def replaced(batches: list[SensorBatch]) -> list[SensorBatch]:
    """The same as other phones'."""
    return [replace(b, device_id=f"x{b.device_id}", session_id=f"x{b.session_id}") for b in batches]


def refuse(_: int) -> None:
    raise FOLDER_IS_FULL
