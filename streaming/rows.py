"""Closed windows as rows of the ``windows`` table."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streaming.assembler import ClosedWindows
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
    return pa.concat_tables(
        [schema.empty_table(), *(_rows(group, settings, schema, topic, partition, ingested_at) for group in closed)]
    )


def _rows(
    group: ClosedWindows, settings: WindowSettings, schema: pa.Schema, topic: str, partition: int, ingested_at: datetime
) -> pa.Table:
    count = len(group.starts_ns)
    starts = group.starts_ns
    columns: dict[str, pa.Array] = {
        "window_id": pa.array([window_id(*group.key, start) for start in starts.tolist()], pa.string()),
        "device_id": _constant(group.key.device_id, count),
        "subject_id": _constant(group.subject_id, count),
        "session_id": _constant(group.key.session_id, count),
        "cohort": _constant(group.cohort, count),
        "phone_model": _constant(group.phone_model, count),
        "position": _constant(group.position, count),
        "scene": pa.array(group.scenes, pa.string()),
        "start_ns": pa.array(starts),
        "end_ns": pa.array(starts + settings.length_ns),
        PARTITION_COLUMN: pa.array((starts // _DAY_NS).astype(np.int32), pa.int32()).cast(pa.date32()),
        "samples": pa.array(group.samples, pa.int32()),
        "topic": _constant(topic, count),
        "kafka_partition": pa.array(np.full(count, partition, np.int32)),
        "first_offset": pa.array(group.first_offsets),
        "last_offset": pa.array(group.last_offsets),
        "next_sequence": pa.array(np.full(count, group.next_sequence, np.int64)),
        "ingested_at": pa.array([ingested_at.astimezone(UTC)] * count, pa.timestamp("us", tz="UTC")),
        "schema_version": pa.array(np.full(count, SCHEMA_VERSION, np.int16)),
    }
    for name in settings.sensors:
        sensor = SENSORS[name]
        signal = group.signals.get(name)
        for axis, channel in enumerate(sensor.channels):
            columns[channel] = pa.nulls(count, SIGNAL) if signal is None else _lists(signal[:, axis])
        absent = signal is None
        columns[f"{sensor.prefix}_coverage"] = pa.array(np.zeros(count, np.float32) if absent else group.coverage[name])
        columns[f"{sensor.prefix}_max_gap_ms"] = pa.array(
            np.full(count, settings.length_ns / 1e6, np.float32) if absent else group.max_gap_ms[name]
        )
        columns[f"{sensor.prefix}_fresh"] = pa.array(np.zeros(count, np.int32) if absent else group.fresh[name])
    return pa.table([columns[name] for name in schema.names], schema=schema)


def _constant(value: str, count: int) -> pa.Array:
    return pa.array([value] * count, pa.string())


def _lists(rows: NDArray[np.float32]) -> pa.Array:
    count, size = rows.shape
    offsets = pa.array(np.arange(count + 1, dtype=np.int32) * size)
    return pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(rows).reshape(-1)), type=SIGNAL)
