"""Windows are, bit for bit, what the first and simplest assembler cut out of the same traffic, however they are cut now.

But for one value of one window of the 8 KiB batches: the first assembler held a sample there across a gap's edge, because it had
forgotten what came before the gap. A restart forgot at other moments, so that the value was another one after it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from streaming.assembler import Assembler, ClosedWindows
from streaming.rows import windows_table
from streaming.settings import WindowSettings
from streaming.wire import decode, encode

from .sessions import close_all_idle
from .traffic import fleet_traffic

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BATCHES = {"1s": timedelta(seconds=1), "8KiB": timedelta(milliseconds=2_270), "64KiB": timedelta(milliseconds=18_200)}
WINDOWS = {
    "1s": "d062f97a2df27bc7284abea21782d74a",
    "8KiB": "83ccf8fa814cbe1a3705b8e0a4279ade",
    "64KiB": "9d8c8ae84dbae108d5793fd0df341cb8",
}
PROGRESS = {
    "1s": "0d4d5116c3dffbbaa98c3dc7d26ab5e8",
    "8KiB": "ab42b4b81f89bff13f9bf7fc76c16ad1",
    "64KiB": "2621445e322d1e2305e7ed44861a8341",
}


def digest(table: pa.Table) -> str:
    """Of all columns but two: when it was ingested, and what a later restart may skip."""
    rows = table.drop_columns(["ingested_at", "next_sequence"]).sort_by("window_id").combine_chunks()
    found = hashlib.blake2b(digest_size=16)
    for name in rows.schema.names:
        column = rows[name].combine_chunks()
        found.update(name.encode())
        if pa.types.is_list(column.type):
            found.update(
                repr(
                    [None if length is None else length for length in pa.compute.list_value_length(column).to_pylist()]
                ).encode()
            )
            flat = column.flatten().to_numpy()
            found.update(np.where(np.isnan(flat), np.float32(np.nan), flat).tobytes())
        elif pa.types.is_floating(column.type):
            found.update(column.to_numpy().tobytes())
        else:
            found.update(repr(column.to_pylist()).encode())
    return found.hexdigest()


def ingest(assembler: Assembler, size: str) -> tuple[list[ClosedWindows], str]:
    """All traffic through an assembler, and what it said at each commit."""
    closed: list[ClosedWindows] = []
    told = []
    now = NOW
    received = 1_800_000_000 * 1_000_000_000
    for offset, value in enumerate(encode(b) for b in fleet_traffic(BATCHES[size])):
        now += timedelta(seconds=1 if offset % 400 else 1200)
        batch = decode(value, max_bytes=1 << 20, max_samples=9_999, max_ahead_ns=0, received_ns=received)
        closed += assembler.add(batch, offset, now)
        if offset % 60 == 0:
            closed += close_all_idle(assembler, now)
            told.append(
                (offset, assembler.needed_offset(), assembler.open_sessions, sum(len(c.starts_ns) for c in closed))
            )
    closed += close_all_idle(assembler, now + timedelta(hours=1))
    told.append(sorted((+assembler.counters).items()))
    return closed, hashlib.blake2b(repr(told).encode(), digest_size=16).hexdigest()


def table(closed: Iterable[ClosedWindows]) -> pa.Table:
    return windows_table(list(closed), WindowSettings(), topic="t", partition=0, ingested_at=NOW)


@pytest.mark.parametrize("together", [1, 7, 1_000])
@pytest.mark.parametrize("size", BATCHES)
def test_windows_are_what_they_always_were(size: str, together: int) -> None:
    closed, progress = ingest(Assembler(WindowSettings(), {}, together=together), size)
    rows = table(closed)
    assert rows.num_rows > 300
    assert digest(rows) == WINDOWS[size]
    assert progress == PROGRESS[size]
