"""What keeps a lake quick and small: small files become large ones, and files that nothing needs go. Rows never change.

**Compaction**, one group of a day's small files after the other:

1. See that the newest version names the files, read them, and sort their rows by device, session and time.
2. Write them as one file, flush it, read its rows' names back and compare.
3. Commit once, against the version of 1: the new file in, the old ones out. An application transaction that every compaction
   moves lets only one of two pass (delta-rs alone would let both, and each window were there twice). Whoever publishes
   meanwhile is not disturbed. For the same reason nothing else may compact the table: not delta-rs' or Spark's own OPTIMIZE.

delta-rs' own compaction is not used: it neither sorts nor keeps BYTE_STREAM_SPLIT for list columns (tried with 1.6.6).
A crash before 3 leaves a file that no version names. The old files stay where they are, for older versions and their readers.

**Vacuum** deletes what no version within the retention names:

1. List the files.
2. Raise the fence: a commit that was prepared before is refused from now on, and its writer writes its files again, under
   new names. So a listed file that no version names now will never be named by any: not even a writer that was stopped
   for a week between its files and its commit can name a file that is gone.
3. Of the listed files keep: those of the newest version and of the versions asked for, those taken out of the table within the
   retention, and those written within it. Delete the others.
4. Write a checkpoint, and let Delta shorten its log.

Each step can be repeated, and a crash leaves nothing but work to do.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from streaming.delta import Table, TableFile, open_table
from streaming.errors import CommitConflict, LakeError
from streaming.faults import reached
from streaming.log import LOG_FOLDER, read_log
from streaming.publish import write_files
from streaming.settings import LakeSettings
from streaming.storage import Storage, plain
from streaming.tables import LABELS, LABELS_PARTITION_COLUMN, PARTITION_COLUMN, WINDOWS


@dataclass(frozen=True, kw_only=True, slots=True)
class _Kept:
    """How the rows of a table lie."""

    partition_column: str
    order: tuple[str, ...]
    """What rows of a large file are sorted by, for readers that want some of them."""
    key: tuple[str, ...]
    """What names a row."""


_KEPT = {
    WINDOWS: _Kept(
        partition_column=PARTITION_COLUMN, order=("device_id", "session_id", "start_ns"), key=("window_id",)
    ),
    LABELS: _Kept(
        partition_column=LABELS_PARTITION_COLUMN, order=("device_id", "said_ns", "kafka_offset"),
        key=("topic", "kafka_partition", "kafka_offset"),
    ),
}  # fmt: skip
_COMPACTION = "sensorloop/compaction"
_SMALL = 0.5
"""Share of the wanted size below which a file is worth merging."""
_ENOUGH = 1.25
"""Share of the wanted size at which a group of files is full; with the above a full group gives no small file."""
_MEMORY_BYTES = 512 << 20
"""Most that a group takes uncompressed; sorting holds it twice. 128 MiB of signals are about 220 MiB."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Compacted:
    """What a compaction did."""

    days: int
    """Days with files that were merged."""
    files_before: int
    """Files of the table."""
    files_after: int
    merged: int
    """Files that were merged."""
    bytes_merged: int
    version: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Vacuumed:
    """What a vacuum did."""

    deleted: int
    bytes: int
    kept: int
    """Files of older versions, or of writers at work, that stay for now."""
    version: int


def compact(settings: LakeSettings, name: str = WINDOWS, *, day: str | None = None) -> Compacted:
    """Merge the small files of a table.

    Args:
        settings: of the lake; ``file_bytes`` is the wanted size.
        name: ``windows`` or ``labels``.
        day: an event date (``2026-01-31``), of labels the day on which they were said; None: every day.

    Raises:
        NoTable: there is no such table.
        CommitConflict: another compaction, or a vacuum, is at work.
        LakeError: a file cannot be read or written. Nothing of its group was changed.
    """
    storage, kept = Storage(settings, name), _KEPT[name]
    table = open_table(storage)
    before = len(table.files())
    merged, merged_bytes, days = 0, 0, set()
    for group in _groups(storage, table.files(), kept.partition_column, wanted=settings.file_bytes, day=day):
        _merge(table, group, kept, settings)
        merged += len(group)
        merged_bytes += sum(file.size for file in group)
        days.add(group[0].partition[kept.partition_column])
    return Compacted(
        days=len(days), files_before=before, files_after=len(table.files()), merged=merged, bytes_merged=merged_bytes,
        version=table.version,
    )  # fmt: skip


def vacuum(
    settings: LakeSettings,
    name: str = WINDOWS,
    *,
    keep_versions: Sequence[int] = (),
    now: datetime | None = None,
    dry_run: bool = False,
) -> Vacuumed:
    """Delete files of a table that no version within the retention names.

    Args:
        settings: of the lake; ``vacuum_retention`` is how long files stay that newer versions do without.
        name: ``windows`` or ``labels``.
        keep_versions: versions that stay readable however old they are.
        now: our clock; None for the real one.
        dry_run: only say what would be deleted.

    Raises:
        NoTable: there is no such table.
        LakeError: one of ``keep_versions`` is not there any more, or a file cannot be deleted.
    """
    storage = Storage(settings, name)
    since = (now or datetime.now(UTC)) - settings.vacuum_retention
    table = open_table(storage)
    kept = {file.path for version in keep_versions for file in open_table(storage, version).files()}
    listing = [file for file in storage.files() if file.modified < since]
    if not dry_run:
        table.fence()
        reached("vacuum.fenced")
    kept |= {file.path for file in table.files()}
    everything = storage.files()
    retained = {
        path for commit in read_log(storage, everything) for path, removed in commit.removed.items() if removed >= since
    }
    doomed = [file for file in listing if _is_data(file.path) and file.path not in kept | retained]
    if not dry_run:
        for file in doomed:
            storage.delete(file.path)
            reached("vacuum.deleted")
        table.shorten_log()
    unnamed = sum(_is_data(file.path) for file in everything) - len(table.files())
    return Vacuumed(
        deleted=len(doomed), bytes=sum(file.size for file in doomed), kept=unnamed - len(doomed), version=table.version
    )


def _is_data(path: str) -> bool:
    return path.endswith(".parquet") and not path.startswith(LOG_FOLDER)


def _groups(
    storage: Storage, files: Iterable[TableFile], column: str, *, wanted: int, day: str | None
) -> Iterator[list[TableFile]]:
    """Small files of one day that together make one of the wanted size, or all that are left of the day."""
    days: dict[str, list[TableFile]] = defaultdict(list)
    for file in files:
        value = file.partition[column]
        if value is not None and (day is None or value == day) and file.size < _SMALL * wanted:
            days[value].append(file)
    for value in sorted(days):
        group: list[TableFile] = []
        size = memory = 0
        for file in days[value]:
            needs = _memory(storage, file.path) if len(days[value]) > 1 else 0
            if group and (size + file.size > _ENOUGH * wanted or memory + needs > _MEMORY_BYTES):
                if len(group) > 1:
                    yield group
                group, size, memory = [], 0, 0
            group.append(file)
            size, memory = size + file.size, memory + needs
        if len(group) > 1:
            yield group


def _merge(table: Table, group: Sequence[TableFile], kept: _Kept, settings: LakeSettings) -> None:
    storage, partition = table.storage, kept.partition_column
    day = group[0].partition[partition]
    if not {file.path for file in group} <= {file.path for file in table.files()}:
        msg = f"Another compaction of {storage.uri} is at work; this one stops."
        raise CommitConflict(msg)
    rows = pa.concat_tables(_read(storage, file.path) for file in group)
    rows = rows.sort_by([(name, "ascending") for name in kept.order])
    column = pa.array([day] * rows.num_rows, pa.string()).cast(pa.date32())
    rows = rows.append_column(pa.field(partition, pa.date32(), nullable=False), column)
    merged = write_files(storage, rows, partition_column=partition, compression_level=settings.compression_level)
    written = pa.concat_tables(_read(storage, file.path, list(kept.key)) for file in merged)
    if not written.select(kept.key).equals(rows.select(kept.key)) or rows.num_rows != sum(file.rows for file in group):
        msg = f"{storage.uri}/{merged[0].path} has other rows than the {len(group)} files it was made of; they stay as they are"
        raise LakeError(msg)
    reached("compact.files")
    number = (table.transaction(_COMPACTION) or 0) + 1
    table.commit(
        schema=_table_schema(rows.schema, table.columns), add=merged, remove=group, transactions={_COMPACTION: number}, metadata={},
        data_change=False,
    )  # fmt: skip
    reached("compact.committed")


def _table_schema(schema: pa.Schema, columns: Sequence[str]) -> pa.Schema:
    return pa.schema([schema.field(name) for name in columns])


def _read(storage: Storage, path: str, columns: list[str] | None = None) -> pa.Table:
    with _opened(storage, path) as source:
        return pq.ParquetFile(source, page_checksum_verification=True).read(columns=columns)


def _memory(storage: Storage, path: str) -> int:
    with _opened(storage, path) as source:
        metadata = pq.read_metadata(source)
    return sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))


@contextmanager
def _opened(storage: Storage, path: str) -> Iterator[Any]:
    try:
        with storage.open(path) as source:
            yield source
    except (OSError, pa.ArrowException) as error:
        msg = f"{storage.uri}/{path} cannot be read: {plain(error)}. 'sensorloop lake verify' says what else is wrong."
        raise LakeError(msg) from error
