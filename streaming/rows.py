"""Closed windows as rows of the ``windows`` table."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
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
        return schema.empty_table()
    counts = [len(group.starts_ns) for group in closed]
    rows = sum(counts)
    starts = np.concatenate([group.starts_ns for group in closed])
    columns: dict[str, pa.Array] = {
        "window_id": pa.array(
            [window_id(*group.key, start) for group in closed for start in group.starts_ns.tolist()], pa.string()
        ),
        "device_id": _texts([group.key.device_id for group in closed], counts),
        "subject_id": _texts([group.subject_id for group in closed], counts),
        "session_id": _texts([group.key.session_id for group in closed], counts),
        "cohort": _texts([group.cohort for group in closed], counts),
        "phone_model": _texts([group.phone_model for group in closed], counts),
        "position": _texts([group.position for group in closed], counts),
        "scene": pa.array([scene for group in closed for scene in group.scenes], pa.string()),
        "start_ns": pa.array(starts),
        "end_ns": pa.array(starts + settings.length_ns),
        PARTITION_COLUMN: pa.array((starts // _DAY_NS).astype(np.int32), pa.int32()).cast(pa.date32()),
        "samples": pa.array(np.concatenate([group.samples for group in closed]), pa.int32()),
        "topic": _texts([topic], [rows]),
        "kafka_partition": pa.array(np.full(rows, partition, np.int32)),
        "first_offset": pa.array(np.concatenate([group.first_offsets for group in closed])),
        "last_offset": pa.array(np.concatenate([group.last_offsets for group in closed])),
        "next_sequence": pa.array(np.repeat([group.next_sequence for group in closed], counts).astype(np.int64)),
        "ingested_at": pa.array([ingested_at.astimezone(UTC)] * rows, pa.timestamp("us", tz="UTC")),
        "schema_version": pa.array(np.full(rows, SCHEMA_VERSION, np.int16)),
    }
    for name in settings.sensors:
        sensor = SENSORS[name]
        present = np.repeat([name in group.signals for group in closed], counts)
        for axis, channel in enumerate(sensor.channels):
            parts = [group.signals[name][:, axis] for group in closed if name in group.signals]
            columns[channel] = _lists(parts, present, settings.grid_size)
        whole = settings.length_ns / 1e6
        columns[f"{sensor.prefix}_coverage"] = _figures(
            [group.coverage.get(name) for group in closed], counts, 0, np.float32
        )
        columns[f"{sensor.prefix}_max_gap_ms"] = _figures(
            [group.max_gap_ms.get(name) for group in closed], counts, whole, np.float32
        )
        columns[f"{sensor.prefix}_fresh"] = _figures([group.fresh.get(name) for group in closed], counts, 0, np.int32)
    return pa.table([columns[name] for name in schema.names], schema=schema)


def _texts(values: Sequence[str], counts: Sequence[int]) -> pa.Array:
    """Each value so many times."""
    return pa.array([value for value, count in zip(values, counts, strict=True) for _ in range(count)], pa.string())


def _figures(groups: Sequence[NDArray[Any] | None], counts: Sequence[int], absent: float, dtype: DTypeLike) -> pa.Array:
    """A figure of each window, as the groups have it; those without the sensor have ``absent``."""
    parts = [
        np.full(count, absent, dtype) if figures is None else figures
        for figures, count in zip(groups, counts, strict=True)
    ]
    return pa.array(np.concatenate(parts).astype(dtype, copy=False))


def _lists(parts: Sequence[NDArray[np.float32]], present: NDArray[np.bool_], size: int) -> pa.Array:
    """A list of ``size`` values for each window that has the sensor, null for the others: one copy of the values."""
    if not parts:
        return pa.nulls(len(present), SIGNAL)
    offsets = pa.array(np.concatenate([[0], np.cumsum(present * size)]).astype(np.int32))
    values = pa.array(np.concatenate(parts).reshape(-1))
    mask = None if present.all() else pa.array(~present)
    return pa.ListArray.from_arrays(offsets, values, type=SIGNAL, mask=mask)
