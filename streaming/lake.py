"""The lake as its readers see it: Delta tables, each read at a version.

How they are filled: :mod:`streaming.publish`. What keeps them quick and small: :mod:`streaming.maintenance`.
"""

from __future__ import annotations

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from streaming.delta import create_table, open_table
from streaming.errors import LakeError
from streaming.offsets import TopicPartition
from streaming.progress import Completeness, moment
from streaming.storage import Lake, Storage
from streaming.tables import QUALITY, QUALITY_SCHEMA, WINDOWS

__all__ = ["Lake", "read_quality", "scan_windows", "scored_windows", "table_version", "valid_through", "write_quality"]


def table_version(lake: Lake, table: str = WINDOWS) -> int:
    """The newest version of a table.

    Raises:
        LakeError: there is no such table.
    """
    return open_table(Storage(lake, table)).version


def scan_windows(lake: Lake, version: int | None = None) -> pl.LazyFrame:
    """The ``windows`` table at a version (None: the newest), to be filtered and collected.

    Raises:
        LakeError: there is no table, or no such version.
    """
    return open_table(Storage(lake, WINDOWS), version).scan()


def valid_through(lake: Lake, version: int | None = None) -> Completeness:
    """Until when, in event time, the ``windows`` table is complete at a version (None: the newest); see :mod:`streaming.progress`.

    Raises:
        LakeError: there is no table, or no such version.
    """
    table = open_table(Storage(lake, WINDOWS), version)
    rows = table.scan().select("topic", "kafka_partition").unique().collect()
    partitions = [TopicPartition(topic=topic, partition=number) for topic, number in sorted(rows.iter_rows())]
    found = {partition: table.transaction(partition.complete_application) for partition in partitions}
    return Completeness(partitions={partition: moment(ns) for partition, ns in found.items() if ns is not None})


def write_quality(lake: Lake, rows: pa.Table) -> int:
    """Append the rows of one rescoring (:data:`QUALITY_SCHEMA`); a second time with the same ``run_key`` changes nothing.

    Returns:
        The table's version after it.
    """
    table = create_table(Storage(lake, QUALITY), QUALITY_SCHEMA)
    applications = {f"sensorloop/quality/{key}": 1 for key in pc.unique(rows["run_key"]).to_pylist()}
    if applications and all(table.transaction(application) is None for application in applications):
        table.append(rows.cast(QUALITY_SCHEMA), applications)
    return table.version


def read_quality(lake: Lake, run_key: str) -> pl.DataFrame:
    """The rows of one rescoring; none if there was no such.

    Raises:
        LakeError: there is no ``quality`` table.
    """
    return open_table(Storage(lake, QUALITY)).scan().filter(pl.col("run_key") == run_key).collect()


def scored_windows(lake: Lake) -> pl.DataFrame:
    """``window_id`` of every window that some rescoring has seen; none before the first."""
    try:
        return open_table(Storage(lake, QUALITY)).scan().select("window_id").unique().collect()
    except LakeError:
        return pl.DataFrame(schema={"window_id": pl.String})
