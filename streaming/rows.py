"""Closed windows as rows of the ``windows`` table.

Columns are made of buffers: ``pyarrow.array`` would first import pandas (a second or two, and 60 MB) to see whether it was given some.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import DTypeLike, NDArray

from streaming.cutting import ClosedWindows
from streaming.sensors import SENSORS
from streaming.settings import WindowSettings
from streaming.tables import PARTITION_COLUMN, SCHEMA_VERSION, SIGNAL, windows_schema

_DAY_NS = 86_400 * 1_000_000_000


def window_id(device_id: str, session_id: str, start_ns: int) -> str:
    """The window's name: a hash of what it is, the same wherever and whenever it is cut."""
    text = f"{device_id}\0{session_id}\0{start_ns}"
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def windows_table(
    closed: Sequence[ClosedWindows], settings: WindowSettings, *, topic: str, partition: int, ingested_at: datetime
) -> pa.Table:
    """Rows of :func:`streaming.tables.windows_schema`, one a window, in the order given."""
    schema = windows_schema(settings.sensors)
    if not closed:
        return pa.Table.from_batches([], schema=schema)  # empty_table() would import pandas as well
    counts = [len(group.starts_ns) for group in closed]
    rows = sum(counts)
    starts = np.concatenate([group.starts_ns for group in closed])
    columns: dict[str, pa.Array] = {
        "window_id": _texts([window_id(*group.key, start) for group in closed for start in group.starts_ns.tolist()]),
        "device_id": _texts([group.key.device_id for group in closed], counts),
        "subject_id": _texts([group.subject_id for group in closed], counts),
        "session_id": _texts([group.key.session_id for group in closed], counts),
        "cohort": _texts([group.cohort for group in closed], counts),
        "phone_model": _texts([group.phone_model for group in closed], counts),
        "position": _texts([group.position for group in closed], counts),
        "scene": _texts([scene for group in closed for scene in group.scenes]),
        "start_ns": _numbers(starts, pa.int64()),
        "end_ns": _numbers(starts + settings.length_ns, pa.int64()),
        PARTITION_COLUMN: _numbers((starts // _DAY_NS).astype(np.int32), pa.date32()),
        "samples": _numbers(np.concatenate([group.samples for group in closed]), pa.int32()),
        "topic": _texts([topic], [rows]),
        "kafka_partition": _numbers(np.full(rows, partition, np.int32), pa.int32()),
        "first_offset": _numbers(np.concatenate([group.first_offsets for group in closed]), pa.int64()),
        "last_offset": _numbers(np.concatenate([group.last_offsets for group in closed]), pa.int64()),
        "next_sequence": _numbers(
            np.repeat(np.array([group.next_sequence for group in closed], np.int64), counts), pa.int64()
        ),
        "ingested_at": _numbers(np.full(rows, _microseconds(ingested_at)), pa.timestamp("us", tz="UTC")),
        "schema_version": _numbers(np.full(rows, SCHEMA_VERSION, np.int16), pa.int16()),
    }
    for name in settings.sensors:
        sensor = SENSORS[name]
        present = np.repeat([name in group.signals for group in closed], counts)
        for axis, channel in enumerate(sensor.channels):
            parts = [group.signals[name][:, axis] for group in closed if name in group.signals]
            columns[channel] = _lists(parts, present, settings.grid_size)
        whole = settings.length_ns / 1e6
        coverage = _figures([group.coverage.get(name) for group in closed], counts, 0, np.float32)
        gaps = _figures([group.max_gap_ms.get(name) for group in closed], counts, whole, np.float32)
        fresh = _figures([group.fresh.get(name) for group in closed], counts, 0, np.int32)
        columns[f"{sensor.prefix}_coverage"] = _numbers(coverage, pa.float32())
        columns[f"{sensor.prefix}_max_gap_ms"] = _numbers(gaps, pa.float32())
        columns[f"{sensor.prefix}_fresh"] = _numbers(fresh, pa.int32())
    return pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)


def _microseconds(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def _numbers(values: NDArray[Any], kind: pa.DataType) -> pa.Array:
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(np.ascontiguousarray(values))])


def _texts(values: Sequence[str | None], counts: Sequence[int] | None = None) -> pa.Array:
    """Each value so many times, once if nothing is said; None is null."""
    encoded = [b"" if value is None else value.encode() for value in values]
    lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
    valid = np.array([value is not None for value in values])
    if counts is not None:
        encoded = [value * count for value, count in zip(encoded, counts, strict=True)]
        lengths, valid = np.repeat(lengths, counts), np.repeat(valid, counts)
    data = [_validity(valid), pa.py_buffer(_ends(lengths)), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(pa.string(), len(lengths), data)


def _figures(
    groups: Sequence[NDArray[Any] | None], counts: Sequence[int], absent: float, dtype: DTypeLike
) -> NDArray[Any]:
    """A figure of each window, as the groups have it; those without the sensor have ``absent``."""
    return np.concatenate(
        [
            np.full(count, absent, dtype) if figures is None else figures.astype(dtype, copy=False)
            for figures, count in zip(groups, counts, strict=True)
        ]
    )


def _lists(parts: Sequence[NDArray[np.float32]], present: NDArray[np.bool_], size: int) -> pa.Array:
    """A list of ``size`` values for each window that has the sensor, null for the others: one copy of the values."""
    values = np.concatenate(parts).reshape(-1) if parts else np.empty(0, np.float32)
    buffers = [_validity(present), pa.py_buffer(_ends(present * size))]
    return pa.Array.from_buffers(SIGNAL, len(present), buffers, children=[_numbers(values, pa.float32())])


def _ends(lengths: NDArray[Any]) -> NDArray[np.int32]:
    """Arrow's offsets: where each value begins, and where the last one ends."""
    ends = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=ends[1:])
    return ends


def _validity(valid: NDArray[np.bool_]) -> pa.Buffer | None:
    """Arrow's bitmap of what is not null; None where nothing is."""
    return None if valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little"))
