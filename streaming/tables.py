"""The Arrow schemas of the lake's tables."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

from streaming.sensors import SENSORS, channel_names

WINDOWS = "windows"
LABELS = "labels"
QUALITY = "quality"
EMBEDDINGS = "embeddings"
PARTITION_COLUMN = "event_date"
LABELS_PARTITION_COLUMN = "said_date"
"""Not the date of the interval: a file of labels about a hundred days, said today, becomes one file of the table."""
SCHEMA_VERSION = 1

SIGNAL = pa.list_(pa.float32())
"""A channel of a window: length × rate values, NaN in a gap. A list and not a fixed-size list, because Delta knows no such type."""

_IDENTITY = [
    pa.field("window_id", pa.string(), nullable=False),
    pa.field("device_id", pa.string(), nullable=False),
    pa.field("subject_id", pa.string(), nullable=False),
    pa.field("session_id", pa.string(), nullable=False),
    pa.field("cohort", pa.string(), nullable=False),
    pa.field("phone_model", pa.string(), nullable=False),
    pa.field("position", pa.string(), nullable=False),
    pa.field("scene", pa.string()),
    pa.field("start_ns", pa.int64(), nullable=False),
    pa.field("end_ns", pa.int64(), nullable=False),
    pa.field(PARTITION_COLUMN, pa.date32(), nullable=False),
]
_ORIGIN = [
    pa.field("samples", pa.int32(), nullable=False),
    pa.field("topic", pa.string(), nullable=False),
    pa.field("kafka_partition", pa.int32(), nullable=False),
    pa.field("first_offset", pa.int64(), nullable=False),
    pa.field("last_offset", pa.int64(), nullable=False),
    pa.field("next_sequence", pa.int64(), nullable=False),
    pa.field("ingested_at", pa.timestamp("us", tz="UTC"), nullable=False),
    pa.field("schema_version", pa.int16(), nullable=False),
]


def windows_schema(sensors: Iterable[str]) -> pa.Schema:
    """Schema of the ``windows`` table for these sensors (names of the catalogue)."""
    sensors = tuple(sensors)
    figures = [
        field
        for name in sensors
        for field in (
            pa.field(f"{SENSORS[name].prefix}_coverage", pa.float32(), nullable=False),
            pa.field(f"{SENSORS[name].prefix}_max_gap_ms", pa.float32(), nullable=False),
            pa.field(f"{SENSORS[name].prefix}_fresh", pa.int32(), nullable=False),
        )
    ]
    signals = [pa.field(channel, SIGNAL) for channel in channel_names(sensors)]
    return pa.schema([*_IDENTITY, *signals, *figures, *_ORIGIN])


LABELS_SCHEMA = pa.schema(
    [
        pa.field("device_id", pa.string(), nullable=False),
        pa.field("session_id", pa.string()),
        pa.field("start_ns", pa.int64(), nullable=False),
        pa.field("end_ns", pa.int64(), nullable=False),
        pa.field("scene", pa.string()),
        pa.field("said_by", pa.string(), nullable=False),
        pa.field("said_ns", pa.int64(), nullable=False),
        pa.field(LABELS_PARTITION_COLUMN, pa.date32(), nullable=False),
        pa.field("topic", pa.string(), nullable=False),
        pa.field("kafka_partition", pa.int32(), nullable=False),
        pa.field("kafka_offset", pa.int64(), nullable=False),
        pa.field("ingested_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)
"""Schema of the ``labels`` table: a row for each label that was said, revised and withdrawn ones included; ``session_id`` null: of any
session of the device, ``scene`` null: withdraws what was said before."""

NO_LABELS = -1
"""Version of the ``labels`` table that stands for none: before anybody said anything later, or to leave it out."""

QUALITY_SCHEMA = pa.schema(
    [
        pa.field("run_key", pa.string(), nullable=False),
        pa.field("window_id", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("subject_id", pa.string(), nullable=False),
        pa.field("margin", pa.float32()),
        pa.field("neighbours", pa.float32()),
        pa.field("original", pa.float32()),
        pa.field("physical", pa.float32()),
        pa.field("belief", pa.float32()),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("tier", pa.int16(), nullable=False),
        pa.field("weight", pa.float32()),
        pa.field("seen", pa.string()),
        pa.field("reasons", pa.string()),
        pa.field("model", pa.string(), nullable=False),
        pa.field("lake_version", pa.int64(), nullable=False),
        pa.field("labels_version", pa.int64()),
    ]
)
"""Schema of the ``quality`` table: a row for each labelled window and rescoring; scores in [0, 1], higher is cleaner. A window that was too
sparse to be scored has a score of 0, none of the others, and the reason. ``weight`` is FilterLoss's, null where it trains nothing (the
holdout); ``seen`` is the scene that the window shows in the judges' eyes. ``lake_version`` and ``labels_version`` are those of the
``windows`` and the ``labels`` table. Null in rows from before there was one: ``labels_version``, ``weight``, ``seen``."""

EMBEDDINGS_SCHEMA = pa.schema(
    [
        pa.field("model", pa.string(), nullable=False),
        pa.field("window_id", pa.string(), nullable=False),
        pa.field("content", pa.string(), nullable=False),
        pa.field("features", pa.list_(pa.float32()), nullable=False),
    ]
)
"""Schema of the ``embeddings`` table, partitioned by ``model`` (a network's digest): what a network makes of a window, so that no window
is fed to it twice. ``content`` is the digest of the signals that it was fed; a row may be there more than once, and is then the same."""
