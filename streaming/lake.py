"""The lake: Delta tables of Parquet files that pyarrow wrote.

The commit protocol of the ``windows`` table:

1. Write the closed windows to Parquet files, one for each event date, under names nobody else uses.
2. Flush the files, then their folder, to disk.
3. Check that the table's offset of each partition is the one this writer left there; if not, somebody else owns it now.
4. Commit once: the files and, as Delta application transactions, the next Kafka offset to read of each partition.

A crash before 4 leaves files that no version names (vacuum removes them); after 4 everything is there. Between two writers
of one partition Delta lets one pass: the application transaction of the other conflicts. The offset is the lowest one that an
open window still needs, so the same number can be committed twice; the application transaction is therefore written always.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction

from streaming.assembler import SessionKey, SessionMemory
from streaming.errors import LakeError, LostOwnership
from streaming.settings import LakeSettings
from streaming.tables import PARTITION_COLUMN, QUALITY, QUALITY_SCHEMA, WINDOWS, windows_schema

_UNREADABLE = re.compile(r"[*?\[\]]|%[0-9A-Fa-f]{2}")

_STATISTICS = (
    "cohort", "device_id", "session_id", "subject_id", "start_ns", "end_ns", "kafka_partition", "first_offset", "last_offset",
)  # fmt: skip
"""Columns whose minimum and maximum let a reader skip a file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TopicPartition:
    """A partition of a topic."""

    topic: str
    partition: int

    @property
    def application(self) -> str:
        """Its Delta application id."""
        return f"sensorloop/{self.topic}/{self.partition}"


class _Table(DeltaTable):  # type: ignore[misc]  # deltalake's types are not followed
    """A table whose addresses are paths.

    delta-rs percent-encodes them (``my%20lake``), and polars opens what it is told: https://github.com/pola-rs/polars/issues/20944.
    """

    @property
    def table_uri(self) -> str:
        return unquote(super().table_uri)

    def file_uris(self, *arguments: Any, **options: Any) -> list[str]:
        return [unquote(uri) for uri in super().file_uris(*arguments, **options)]


class WindowsTable:
    """The ``windows`` table, as its writer sees it.

    Args:
        settings: where the lake is.
        sensors: names of the sensors that have columns.

    Raises:
        LakeError: a table is there with other columns.
    """

    def __init__(self, settings: LakeSettings, sensors: Iterable[str]) -> None:
        self._root = Path(settings.uri) / WINDOWS
        self._level = settings.compression_level
        self.schema = windows_schema(sensors)
        self._table = _open_or_create(self._root, self.schema, partition_by=[PARTITION_COLUMN])
        present = [field.name for field in self._table.schema().fields]
        if sorted(present) != sorted(self.schema.names):
            differing = sorted(set(present) ^ set(self.schema.names))
            msg = (
                f"The table {self._root} was made with other sensors (columns that differ: {', '.join(differing)}). "
                "Set [windows] sensors as they were, or use another [lake] uri."
            )
            raise LakeError(msg)

    @property
    def version(self) -> int:
        """The newest version this writer knows."""
        return int(self._table.version())

    def offset(self, partition: TopicPartition) -> int | None:
        """Next Kafka offset to read, as the newest commit has it; None if this partition was never committed."""
        self._table.update_incremental()
        version = self._table.transaction_version(partition.application)
        return None if version is None else int(version)

    def sessions(self, partition: TopicPartition, hop_ns: int) -> dict[SessionKey, SessionMemory]:
        """What is published of each session of a partition."""
        rows = (
            _scan(self._table)
            .filter(pl.col("topic") == partition.topic, pl.col("kafka_partition") == partition.partition)
            .group_by("device_id", "session_id")
            .agg(pl.col("start_ns").max(), pl.col("next_sequence").max())
            .collect()
        )
        return {
            SessionKey(row["device_id"], row["session_id"]): SessionMemory(
                next_start_ns=row["start_ns"] + hop_ns, next_sequence=row["next_sequence"]
            )
            for row in rows.iter_rows(named=True)
        }

    def publish(self, windows: pa.Table, offsets: Mapping[TopicPartition, tuple[int | None, int]]) -> int:
        """Make windows and offsets visible in one commit.

        Args:
            windows: rows of :attr:`schema`; may be empty.
            offsets: partition → (the offset this writer found or left there, the next offset to read).

        Returns:
            The new version.

        Raises:
            LostOwnership: another writer has committed for one of the partitions.
            LakeError: the files cannot be written, or the commit failed for another reason.
        """
        try:
            actions = [self._write(windows, day) for day in sorted(set(windows[PARTITION_COLUMN].to_pylist()))]
        except OSError as error:
            msg = (
                f"Cannot write Parquet files below {self._root}: {error}. Nothing was published; "
                "free space or fix access, then start again."
            )
            raise LakeError(msg) from error
        for partition, (expected, _) in offsets.items():
            found = self.offset(partition)
            if found != expected:
                raise LostOwnership(_taken(partition, expected, found))
        transactions = [Transaction(partition.application, following) for partition, (_, following) in offsets.items()]
        try:
            self._table.create_write_transaction(
                actions, mode="append", schema=self.schema, partition_by=[PARTITION_COLUMN],
                commit_properties=CommitProperties(app_transactions=transactions),
            )  # fmt: skip
        except CommitFailedError as error:
            partition, (expected, _) = next(iter(offsets.items()))
            raise LostOwnership(_taken(partition, expected, self.offset(partition))) from error
        except DeltaError as error:
            msg = f"The commit to {self._root} failed: {error}"
            raise LakeError(msg) from error
        self._table.update_incremental()
        return self.version

    def _write(self, windows: pa.Table, day: date) -> AddAction:
        rows = windows.filter(pc.equal(windows[PARTITION_COLUMN], day)).drop_columns([PARTITION_COLUMN])
        folder = f"{PARTITION_COLUMN}={day.isoformat()}"
        name = f"{folder}/part-{secrets.token_hex(12)}.parquet"
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        signals = [field.name for field in rows.schema if pa.types.is_list(field.type)]
        with path.open("wb") as file:
            pq.write_table(
                rows, file, compression="zstd", compression_level=self._level,
                use_dictionary=[name for name in rows.schema.names if name not in signals],
                column_encoding={f"{name}.list.element": "BYTE_STREAM_SPLIT" for name in signals},
                write_statistics=[name for name in _STATISTICS if name in rows.schema.names],
            )  # fmt: skip
            file.flush()
            os.fsync(file.fileno())
        _sync_folder(path.parent)
        _sync_folder(self._root)
        status = path.stat()
        return AddAction(
            path=name,
            size=status.st_size,
            partition_values={PARTITION_COLUMN: day.isoformat()},
            modification_time=int(status.st_mtime * 1000),
            data_change=True,
            stats=_statistics(rows),
        )


def table_version(uri: str, table: str = WINDOWS) -> int:
    """The newest version of a table.

    Raises:
        LakeError: there is no such table.
    """
    return int(_existing(uri, table).version())


def scan_windows(uri: str, version: int | None = None) -> pl.LazyFrame:
    """The ``windows`` table at a version (None: the newest), to be filtered and collected.

    Raises:
        LakeError: there is no table, or no such version.
    """
    return _scan(_existing(uri, WINDOWS, version))


def write_quality(uri: str, rows: pa.Table) -> int:
    """Append the rows of one rescoring (:data:`QUALITY_SCHEMA`); a second time with the same ``run_key`` changes nothing.

    Returns:
        The table's version after it.
    """
    root = Path(uri) / QUALITY
    table = _open_or_create(root, QUALITY_SCHEMA, partition_by=[])
    keys = pc.unique(rows["run_key"]).to_pylist()
    if not keys:
        return int(table.version())
    applications = [Transaction(f"sensorloop/quality/{key}", 1) for key in keys]
    if any(table.transaction_version(transaction.app_id) is not None for transaction in applications):
        return int(table.version())
    from deltalake import write_deltalake  # noqa: PLC0415  (needed by this function only)

    write_deltalake(
        table,
        rows.cast(QUALITY_SCHEMA),
        mode="append",
        commit_properties=CommitProperties(app_transactions=applications),
    )
    return int(DeltaTable(str(root)).version())


def read_quality(uri: str, run_key: str) -> pl.DataFrame:
    """The rows of one rescoring; none if there was no such.

    Raises:
        LakeError: there is no ``quality`` table.
    """
    return _scan(_existing(uri, QUALITY)).filter(pl.col("run_key") == run_key).collect()


def scored_windows(uri: str) -> pl.DataFrame:
    """``window_id`` of every window that some rescoring has seen; none before the first."""
    try:
        return _scan(_existing(uri, QUALITY)).select("window_id").unique().collect()
    except LakeError:
        return pl.DataFrame(schema={"window_id": pl.String})


def _existing(uri: str, name: str, version: int | None = None) -> _Table:
    root = Path(uri) / name
    _check_name(root)
    try:
        return _Table(str(root), version=version)
    except TableNotFoundError as error:
        msg = f"There is no table {name} in the lake {uri}: ingest something first, or set [lake] uri."
        raise LakeError(msg) from error
    except DeltaError as error:
        msg = f"The table {root} cannot be read at version {version}: {error}"
        raise LakeError(msg) from error


def _open_or_create(root: Path, schema: pa.Schema, *, partition_by: list[str]) -> _Table:
    _check_name(root)
    # "ignore": two processes that both find no table must end with one.
    table: _Table = _Table.create(str(root), schema=schema, mode="ignore", partition_by=partition_by)
    return table


def _check_name(root: Path) -> None:
    """Before anything is written that could not be read again."""
    if _UNREADABLE.search(str(root)):
        msg = (
            f"The lake cannot be in {root.parent}: its path has one of * ? [ ] or a % with two hexadecimal digits, which readers of "
            "Parquet take for patterns and codes. Set [lake] uri (or SENSORLOOP_HOME) to another folder."
        )
        raise LakeError(msg)


def _scan(table: _Table) -> pl.LazyFrame:
    return pl.scan_delta(table)


def _taken(partition: TopicPartition, expected: int | None, found: int | None) -> str:
    return (
        f"Another consumer has committed {partition.topic}[{partition.partition}]: its offset was {expected} when we last wrote it "
        f"and is {found} now. Nothing of ours was published; this consumer stops."
    )


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _statistics(rows: pa.Table) -> str:
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
