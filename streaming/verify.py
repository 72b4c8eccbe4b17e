"""Proof of a lake: that a table filled from Kafka is what its log says, and that the log accounts for every offset once.

Those are ``windows`` and ``labels``. What is looked at, of the newest version:

1. Every file that it names is there, has the size and the rows that the log says, and can be read to the last page (the pages'
   checksums included).
2. No file is in the log twice, and no window and no label in the table.
3. In each partition the commits' accounts follow one another without hole or overlap (:mod:`streaming.offsets`), the last one
   ends where the table says that a restart would read on, and no row comes from beyond what was read.
4. Each commit added as many rows as its accounts say, and each partition has as many rows as its accounts add up to. Of labels
   it is one for each offset that held one.

The log is kept for 30 days: older commits are proven by their sums, which the oldest account that is left carries.
Files that no version names are harmless: a writer died before its commit, or will commit yet.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from streaming.delta import Table, TableFile, open_table
from streaming.errors import LakeError
from streaming.log import LOG_FOLDER, Commit, read_log
from streaming.offsets import Account, TopicPartition, chain_problems
from streaming.storage import Lake, Storage, StoredFile, plain
from streaming.tables import LABELS, WINDOWS


@dataclass(frozen=True, kw_only=True, slots=True)
class Accounted:
    """A table whose commits carry accounts."""

    table: str
    columns: tuple[str, ...]
    """Where its rows came from."""
    newest: str
    """The one of them with the highest offset that a row needed."""
    rows: Callable[[pl.DataFrame], Iterable[str]]
    """What is wrong with rows, looked at together."""
    row_a_record: bool
    """Whether each offset that held no dead letter gave one row."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Observed:
    """A table as it was found."""

    kind: Accounted
    version: int
    named: Sequence[TableFile]
    """What the version names."""
    listing: Sequence[StoredFile]
    commits: Sequence[Commit]
    positions: Mapping[TopicPartition, tuple[int | None, int]]
    """Partition → next offset to read and number of commits, as the table says."""
    rows: pl.DataFrame
    """The columns of where each row came from."""
    unreadable: Mapping[str, str]
    """Path → why, of files that are there."""
    counted: Mapping[str, int]
    """Path → rows that were read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Proof:
    """What a look at a lake found."""

    table: str
    version: int
    files: int
    rows: int
    partitions: int
    since_version: int
    """Oldest commit of which the log is left."""
    absent_offsets: int
    """Offsets of the log's accounts at which Kafka had no record."""
    problems: tuple[str, ...]
    """A line each; none: the table is proven."""
    orphans: tuple[str, ...]
    """Files that no version in the log names."""


def verify(lake: Lake, table: str = WINDOWS, *, pages: bool = True) -> Proof:
    """Look at the newest version of a table of a lake.

    Args:
        lake: the lake.
        table: one of :data:`ACCOUNTED`.
        pages: read every page of every file; else only the columns of where rows came from.

    Raises:
        NoTable: there is no such table.
        LakeError: its log cannot be read at all.
    """
    return prove(observe(lake, ACCOUNTED[table], pages=pages))


def observe(lake: Lake, kind: Accounted, *, pages: bool = True) -> Observed:
    """Read what :func:`prove` judges.

    Raises:
        LakeError: there is no table, or its log cannot be read at all.
    """
    storage = Storage(lake, kind.table)
    table = open_table(storage)
    listing = storage.files()
    commits = [commit for commit in read_log(storage, listing) if commit.version <= table.version]
    named = table.files()
    there = {file.path for file in listing}
    frames, unreadable, counted = [], {}, {}
    for file in named:
        if file.path in there:
            try:
                rows = _read(storage, file.path, kind.columns, pages=pages)
            except (OSError, pa.ArrowException, LakeError) as error:
                unreadable[file.path] = plain(error)
            else:
                counted[file.path] = rows.num_rows
                frames.append(pl.DataFrame(rows))
    rows = pl.concat(frames) if frames else pl.DataFrame(schema=dict.fromkeys(kind.columns, pl.String))
    seen = {partition for commit in commits for partition in commit.accounts}
    seen |= {
        TopicPartition(topic=t, partition=p) for t, p in rows.select("topic", "kafka_partition").unique().iter_rows()
    }
    return Observed(
        kind=kind, version=table.version, named=named, listing=listing, commits=commits, rows=rows, unreadable=unreadable,
        counted=counted, positions={partition: _position(table, partition) for partition in seen},
    )  # fmt: skip


def prove(observed: Observed) -> Proof:
    """Judge what was found."""
    kind = observed.kind
    problems = [*_files(observed), *_log(observed.commits), *kind.rows(observed.rows), *_accounts(observed)]
    known = {path for commit in observed.commits for path in (*commit.added, *commit.removed)}
    known |= {file.path for file in observed.named}
    orphans = [f.path for f in observed.listing if not f.path.startswith(LOG_FOLDER) and f.path not in known]
    return Proof(
        table=kind.table,
        version=observed.version,
        files=len(observed.named),
        rows=observed.rows.height,
        partitions=len(observed.positions),
        since_version=observed.commits[0].version if observed.commits else observed.version,
        absent_offsets=sum(account.absent for commit in observed.commits for account in commit.accounts.values()),
        problems=tuple(problems),
        orphans=tuple(orphans),
    )


def _read(storage: Storage, path: str, names: Sequence[str], *, pages: bool) -> pa.Table:
    """The columns of where rows came from; with ``pages`` every other page is decoded too, a row group at a time."""
    with storage.open(path) as source, pq.ParquetFile(source, page_checksum_verification=True) as file:
        parts, chosen = [], list(names)
        for group in range(file.metadata.num_row_groups):
            columns = None if pages else chosen
            parts.append(file.read_row_group(group, columns=columns).select(chosen))
        return pa.concat_tables([file.schema_arrow.empty_table().select(chosen), *parts])


def _position(table: Table, partition: TopicPartition) -> tuple[int | None, int]:
    return table.transaction(partition.application), table.transaction(partition.commits_application) or 0


def _files(observed: Observed) -> Iterable[str]:
    sizes = {file.path: file.size for file in observed.listing}
    for file in observed.named:
        if file.path not in sizes:
            yield f"{file.path}: is missing; {file.rows} rows are lost"
        elif sizes[file.path] != file.size:
            yield f"{file.path}: has {sizes[file.path]} bytes, the log says {file.size}"
        elif file.path in observed.unreadable:
            yield f"{file.path}: cannot be read: {observed.unreadable[file.path]}"
        elif observed.counted[file.path] != file.rows:
            yield f"{file.path}: has {observed.counted[file.path]} rows, the log says {file.rows}"


def _log(commits: Sequence[Commit]) -> Iterable[str]:
    for before, commit in pairwise(commits):
        if commit.version != before.version + 1:
            yield f"the log has no version between {before.version} and {commit.version}"
    for path, count in Counter(path for commit in commits for path in commit.added).items():
        if count > 1:
            versions = [commit.version for commit in commits if path in commit.added]
            yield f"{path}: was added {count} times, at versions {', '.join(map(str, sorted(set(versions))))}"
    for commit in commits:
        said = sum(account.windows for account in commit.accounts.values())
        if commit.data_change and not commit.accounts:
            yield f"version {commit.version}: changes rows, and has no account of offsets: another tool wrote it"
        elif commit.data_change and commit.rows != said:
            yield f"version {commit.version}: added {commit.rows} rows, its accounts say {said}"
        elif said and not commit.data_change:
            yield f"version {commit.version}: added no rows, its accounts say {said}"


def _windows(rows: pl.DataFrame) -> Iterable[str]:
    named = rows.group_by("window_id").len().filter(pl.col("len") > 1).sort("window_id")
    for window_id, count in named.iter_rows():
        yield f"window {window_id}: is in the table {count} times"
    key = ["device_id", "session_id", "start_ns"]
    same = rows.group_by(key).agg(pl.col("window_id").n_unique().alias("ids")).filter(pl.col("ids") > 1).sort(key)
    for device, session, start, count in same.iter_rows():
        yield f"window of {device}, session {session}, at {start}: is in the table under {count} names"


def _labels(rows: pl.DataFrame) -> Iterable[str]:
    key = ["topic", "kafka_partition", "kafka_offset"]
    for topic, partition, offset, count in rows.group_by(key).len().filter(pl.col("len") > 1).sort(key).iter_rows():
        yield f"label of {TopicPartition(topic=topic, partition=partition)} at offset {offset}: is in the table {count} times"


def _accounts(observed: Observed) -> Iterable[str]:
    whole = bool(observed.commits) and observed.commits[0].version == 0
    chains: dict[TopicPartition, list[tuple[int, Account]]] = defaultdict(list)
    for commit in observed.commits:
        for partition, account in commit.accounts.items():
            chains[partition].append((commit.version, account))
            if observed.kind.row_a_record and account.windows != account.batches:
                yield f"{partition} at version {commit.version}: {account.batches} records gave {account.windows} rows"
    rows = {
        TopicPartition(topic=topic, partition=number): (count, newest)
        for topic, number, count, newest in observed.rows.group_by("topic", "kafka_partition")
        .agg(pl.len(), pl.col(observed.kind.newest).max().alias("newest"))
        .iter_rows()
    }
    for partition in sorted(observed.positions, key=str):
        chain = chains[partition]
        yield from chain_problems(partition, chain, whole=whole)
        offset, commits = observed.positions[partition]
        count, newest = rows.get(partition, (0, -1))
        if not chain:
            if whole:
                yield f"{partition}: has {count} rows, and no account of offsets"
            continue
        last = chain[-1][1]
        if (offset, commits) != (last.to_offset, last.commit):
            yield (
                f"{partition}: its accounts end at offset {last.to_offset} after {last.commit} commits, "
                f"the table reads on at {offset} after {commits}"
            )
        if count != last.rows_before + last.windows:
            yield f"{partition}: has {count} rows, its accounts add up to {last.rows_before + last.windows}"
        if newest >= last.read_to:
            yield f"{partition}: has a row from offset {newest}, and was read only up to {last.read_to}"


ACCOUNTED: Mapping[str, Accounted] = {
    WINDOWS: Accounted(
        table=WINDOWS, newest="last_offset", rows=_windows, row_a_record=False,
        columns=(
            "window_id", "device_id", "session_id", "start_ns", "topic", "kafka_partition", "first_offset", "last_offset",
        ),
    ),
    LABELS: Accounted(
        table=LABELS, newest="kafka_offset", rows=_labels, row_a_record=True,
        columns=("topic", "kafka_partition", "kafka_offset"),
    ),
}  # fmt: skip
"""The tables that are filled from Kafka, by name."""
