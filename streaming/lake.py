"""The lake as its readers see it: Delta tables, each read at a version.

How they are filled: :mod:`streaming.publish`. What keeps them quick and small: :mod:`streaming.maintenance`.
"""

from __future__ import annotations

from collections.abc import Collection

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from streaming.delta import create_table, open_table
from streaming.errors import NoTable
from streaming.offsets import TopicPartition
from streaming.progress import Completeness, moment
from streaming.sensors import SENSORS, channel_names
from streaming.storage import Lake, Storage
from streaming.tables import (
    EMBEDDINGS,
    EMBEDDINGS_SCHEMA,
    LABELS,
    LABELS_SCHEMA,
    NO_LABELS,
    QUALITY,
    QUALITY_SCHEMA,
    WINDOWS,
)

__all__ = [
    "CHANNELS",
    "Lake",
    "append_embeddings",
    "cohorts",
    "embedded_windows",
    "labels_version",
    "read_embeddings",
    "read_quality",
    "scan_labels",
    "scan_windows",
    "scored_windows",
    "table_version",
    "valid_through",
    "write_quality",
]

CHANNELS = channel_names(SENSORS)
"""What a lake can have of signals, if ``[windows] sensors`` names all sensors."""


def cohorts(lake: Lake, version: int | None = None) -> list[str]:
    """Names of the fleets that have windows, in order."""
    names: list[str] = (
        scan_windows(lake, version).select("cohort").unique().collect()["cohort"].drop_nulls().sort().to_list()
    )
    return names


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


def labels_version(lake: Lake) -> int:
    """The newest version of the ``labels`` table; :data:`NO_LABELS` if nobody has ingested any.

    Raises:
        LakeError: the table is there and cannot be read.
    """
    try:
        return table_version(lake, LABELS)
    except NoTable:
        return NO_LABELS


def scan_labels(lake: Lake, version: int) -> pl.LazyFrame:
    """The ``labels`` table at a version, every label that was said by then; no rows at :data:`NO_LABELS`.

    Raises:
        LakeError: there is no table, or no such version.
    """
    if version == NO_LABELS:
        return pl.LazyFrame(pl.DataFrame(LABELS_SCHEMA.empty_table()))
    return open_table(Storage(lake, LABELS), version).scan()


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


def scored_windows(lake: Lake, run_keys: Collection[str]) -> pl.DataFrame:
    """``window_id`` and ``label`` of every window that one of these rescorings has seen.

    Of several rescorings of a window it is the label at the newest version of the lake. Those that were too sparse to be scored are
    not among them: a lower [data] min_coverage makes them new.
    """
    try:
        scores = open_table(Storage(lake, QUALITY)).scan()
    except NoTable:
        return pl.DataFrame(schema={"window_id": pl.String, "label": pl.String})
    versions = ["lake_version", "labels_version"]
    there = [name for name in versions if name in scores.collect_schema().names()]
    scores = scores.filter(pl.col("run_key").is_in(list(run_keys)))
    newest = pl.col("label").sort_by(there, nulls_last=False).last()
    if "weight" in scores.collect_schema().names():
        # Those have no margin; nor a weight, where their person is held out.
        scores = scores.filter(
            ~(pl.col("margin").is_null() & (pl.col("score") == 0) & (pl.col("weight").fill_null(0.0) == 0))
        )
    return scores.group_by("window_id").agg(newest).collect()


def read_embeddings(lake: Lake, model: str, window_ids: Collection[str]) -> pl.DataFrame:
    """``window_id``, ``content`` and ``features`` (a list<float32>) of what a network has made of these windows; each once.

    Raises:
        LakeError: the table is there and cannot be read.
    """
    wanted = pl.Series("window_id", list(window_ids), pl.String)
    try:
        table = open_table(Storage(lake, EMBEDDINGS))
    except NoTable:
        return pl.DataFrame(EMBEDDINGS_SCHEMA.empty_table()).drop("model")
    return table.read(
        lambda rows: (
            rows.filter((pl.col("model") == model) & pl.col("window_id").is_in(wanted.implode()))
            .select("window_id", "content", "features")
            .unique(["window_id", "content"], keep="any")
        )
    )


def embedded_windows(lake: Lake, model: str) -> pl.DataFrame:
    """``window_id`` of every window that a network has been fed, each once; with what content is not asked.

    Raises:
        LakeError: the table is there and cannot be read.
    """
    try:
        table = open_table(Storage(lake, EMBEDDINGS))
    except NoTable:
        return pl.DataFrame(schema={"window_id": pl.String})
    return table.read(lambda rows: rows.filter(pl.col("model") == model).select("window_id").unique())


def append_embeddings(lake: Lake, rows: pa.Table) -> None:
    """Append rows of :data:`EMBEDDINGS_SCHEMA`. Two who append the same at once leave it there twice, and nobody the worse.

    Raises:
        LakeError: they cannot be written.
    """
    table = create_table(Storage(lake, EMBEDDINGS), EMBEDDINGS_SCHEMA, partition_by=("model",))
    table.append(rows.cast(EMBEDDINGS_SCHEMA), {})
