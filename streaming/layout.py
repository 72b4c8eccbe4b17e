"""How rows lie in a Parquet file: signals small and quick to decode, the rest so that a reader can skip."""

from __future__ import annotations

import json
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

_STATISTICS = (
    "cohort", "device_id", "session_id", "subject_id", "start_ns", "end_ns", "kafka_partition", "first_offset", "last_offset",
)  # fmt: skip
"""Columns whose minimum and maximum let a reader skip a file, or a part of it."""

_ROW_GROUP_BYTES = 32 << 20
"""Uncompressed. A reader of one device skips the other parts of a file; smaller ones would cost more than they spare."""


def write_rows(rows: pa.Table, file: IO[bytes], *, compression_level: int) -> None:
    """Write rows as they lie in the lake.

    List columns (signals): BYTE_STREAM_SPLIT and zstd, no dictionary, no statistics; the others: dictionary, and statistics
    where they help. Every page has a checksum, so that a bit that flips on a disk is found (``sensorloop lake verify``).
    """
    signals = [field.name for field in rows.schema if pa.types.is_list(field.type)]
    row_bytes = max(1, rows.nbytes // max(1, rows.num_rows))
    pq.write_table(
        rows, file, compression="zstd", compression_level=compression_level, row_group_size=max(1, _ROW_GROUP_BYTES // row_bytes),
        use_dictionary=[name for name in rows.schema.names if name not in signals],
        column_encoding={f"{name}.list.element": "BYTE_STREAM_SPLIT" for name in signals},
        write_statistics=[name for name in _STATISTICS if name in rows.schema.names],
        write_page_checksum=True,
    )  # fmt: skip


def statistics(rows: pa.Table) -> str:
    """Delta's per-file statistics, as JSON."""
    columns = [name for name in _STATISTICS if name in rows.schema.names]
    extremes = {name: cast("dict[str, Any]", pc.min_max(rows[name]).as_py()) for name in columns}
    return json.dumps(
        {
            "numRecords": rows.num_rows,
            "minValues": {name: value["min"] for name, value in extremes.items()},
            "maxValues": {name: value["max"] for name, value in extremes.items()},
            "nullCount": {name: rows[name].null_count for name in columns},
        }
    )
