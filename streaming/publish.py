"""How rows and Kafka offsets become visible together, once: the commit protocol of every table that is filled from Kafka.

1. Remember how often the table was fenced (:mod:`streaming.maintenance` raises the fence before it deletes files).
2. Write the rows to Parquet files, one for each value of the partition column, under names nobody else uses, and flush
   files and folders to disk (:mod:`streaming.storage`).
3. Look at the newest version. If the fence was raised, a vacuum may have taken the files for leftovers: go back to 1. If a
   partition's stored offset or number of commits is not what this writer found or left there, somebody else owns it now.
4. Commit once: the files; as Delta application transactions, of each partition the next Kafka offset to read, the number of
   commits, until when it is complete (:mod:`streaming.progress`), which topic it is of and under which leader the last record was
   written (:mod:`streaming.incarnation`); and,
   as the commit's metadata, what became of the offsets in between (:mod:`streaming.offsets`). Delta refuses it if since 3 somebody
   committed for one of the partitions, or raised the fence: then look whether it was this very commit, whose first answer was lost;
   else go back to 1, by way of the check of 3.

A crash before 4 leaves files that no version names (vacuum removes them); after 4 everything is there. The stored offset is the
lowest one that an open window still needs, so the same number can be committed twice: only the number of commits tells
a zombie that its partition was published by another since.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from streaming.delta import Table, TableFile, create_table
from streaming.errors import CommitConflict, LakeError, LostOwnership
from streaming.faults import reached
from streaming.layout import statistics, write_rows
from streaming.offsets import Account, TopicPartition
from streaming.refusals import note, one_less
from streaming.storage import Storage

ACCOUNTS = "accounts"
"""Key of a commit's metadata: a list of :meth:`streaming.offsets.Account.record`."""

_ATTEMPTS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Position:
    """What the table says of a Kafka partition."""

    offset: int | None
    """Next offset to read; None if it was never committed."""
    commits: int
    """How often it was committed."""
    topic_id: int | None = None
    """Which topic of its name it is of, see :mod:`streaming.incarnation`; None if that was never noted."""
    leader_epoch: int | None = None
    """Under which leader the record before the offset was written, see :mod:`streaming.incarnation`; None if it is not known."""
    refused: int | None = None
    """From where on records that were read are gone, at the earliest, see :mod:`streaming.refusals`; None if it is not refused."""


class Publisher:
    """A table as its writer sees it; made if it is not there.

    Args:
        storage: where it is.
        schema: its columns; ``topic`` and ``kafka_partition`` say where a row came from.
        partition_column: the column that makes folders; ISO text of its value is the folder's name.
        compression_level: zstd's.

    Raises:
        LakeError: it is there with other columns, or cannot be made.
    """

    def __init__(self, storage: Storage, schema: pa.Schema, *, partition_column: str, compression_level: int) -> None:
        self.schema = schema
        self._storage = storage
        self._partition_column = partition_column
        self._level = compression_level
        self.table = create_table(storage, schema, partition_by=[partition_column])
        differing = sorted(set(self.table.columns) ^ set(schema.names))
        if differing:
            msg = (
                f"The table {storage.uri} was made with other sensors (columns that differ: {', '.join(differing)}). "
                "Set [windows] sensors as they were, or use another [lake] uri."
            )
            raise LakeError(msg)

    def position(self, partition: TopicPartition) -> Position:
        """What the newest version says of a partition; :attr:`table` is then at that version."""
        self.table.refresh()
        return _position(self.table, partition)

    def read(self, partition: TopicPartition, query: Callable[[pl.LazyFrame], pl.LazyFrame]) -> pl.DataFrame:
        """A query over the rows of a partition, as of the version that :meth:`position` saw.

        Raises:
            LakeError: they cannot be read.
        """
        topic, number = pl.col("topic") == partition.topic, pl.col("kafka_partition") == partition.partition
        return self.table.read(lambda rows: query(rows.filter(topic, number)))

    def rows(self, partition: TopicPartition) -> int:
        """How many rows of a partition are published, as of the version that :meth:`position` saw.

        Raises:
            LakeError: they cannot be read.
        """
        return int(self.read(partition, lambda rows: rows.select(pl.len())).item())

    def publish(self, rows: pa.Table, accounts: Mapping[TopicPartition, Account]) -> int:
        """Make rows and offsets visible in one commit.

        Args:
            rows: of :attr:`schema`; may be empty.
            accounts: what the commit says of each partition; ``commit`` and ``from_offset`` as this writer left them.

        Returns:
            The new version.

        Raises:
            LostOwnership: another writer has committed for one of the partitions. Nothing of ours was published.
            CommitConflict: three times the table was vacuumed or changed while this wrote. Nothing of ours was published.
            LakeError: the files cannot be written, or the commit failed for another reason.
        """
        for _ in range(_ATTEMPTS):
            fences = self.table.fences
            files = write_files(
                self._storage, rows, partition_column=self._partition_column, compression_level=self._level
            )
            reached("publish.files")
            self._check(accounts)
            if self.table.fences != fences:
                continue
            reached("publish.checked")
            try:
                self.table.commit(
                    schema=self.schema, add=files, transactions=_transactions(accounts),
                    metadata={ACCOUNTS: [account.record(partition) for partition, account in accounts.items()]},
                )  # fmt: skip
            except CommitConflict:
                self.table.refresh()
                if not _named(self.table, files):
                    self._check(accounts)
                    continue
                # A store whose answer was lost is asked again by delta-rs, and then refuses what it has taken: ours is in.
            reached("publish.committed")
            return self.table.version
        msg = f"Others commit to {self._storage.uri} (a vacuum?) again and again; nothing was published. Start again once that has ended."
        raise CommitConflict(msg)

    def refuse(self, partition: TopicPartition, ended: int, reason: str) -> None:
        """See :func:`streaming.refusals.note`."""
        note(self.table, partition, ended, reason)

    def _check(self, accounts: Mapping[TopicPartition, Account]) -> None:
        self.table.refresh()
        for partition, account in accounts.items():
            found = _position(self.table, partition)
            if found.commits != account.commit - 1 or (found.offset or 0) != account.from_offset:
                raise LostOwnership(_taken(partition, account, found), partition)


def write_files(storage: Storage, rows: pa.Table, *, partition_column: str, compression_level: int) -> list[TableFile]:
    """Write rows to new files, one for each value of the partition column, in the order that the rows have.

    Raises:
        LakeError: they cannot be written.
    """
    files = []
    values = sorted(pc.unique(rows[partition_column]).to_pylist())
    for value in values:
        # Most commits are of one day: no need to copy them.
        part = rows if len(values) == 1 else rows.filter(pc.equal(rows[partition_column], value))
        part = part.drop_columns([partition_column])
        path = f"{partition_column}={value}/part-{secrets.token_hex(12)}.parquet"
        stored = storage.write(path, partial(_fill, part, compression_level))
        files.append(
            TableFile(
                path=path, size=stored.size, rows=part.num_rows, partition={partition_column: str(value)},
                statistics=statistics(part),
            )
        )  # fmt: skip
    return files


def _fill(rows: pa.Table, compression_level: int, file: Any) -> None:
    write_rows(rows, file, compression_level=compression_level)


def _named(table: Table, files: Sequence[TableFile]) -> bool:
    """Whether these files, whose names nobody else has, are in the table."""
    return bool(files) and {file.path for file in files} <= {file.path for file in table.files()}


def _position(table: Table, partition: TopicPartition) -> Position:
    return Position(
        offset=table.transaction(partition.application),
        commits=table.transaction(partition.commits_application) or 0,
        topic_id=table.transaction(partition.topic_application),
        leader_epoch=one_less(table.transaction(partition.epoch_application)),
        refused=one_less(table.transaction(partition.refused_application)),
    )


def _transactions(accounts: Mapping[TopicPartition, Account]) -> dict[str, int]:
    offsets = {partition.application: account.to_offset for partition, account in accounts.items()}
    commits = {partition.commits_application: account.commit for partition, account in accounts.items()}
    complete = {
        partition.complete_application: account.valid_through_ns
        for partition, account in accounts.items()
        if account.valid_through_ns is not None and account.valid_through_ns >= 0
    }
    topics = {
        partition.topic_application: account.topic_id
        for partition, account in accounts.items()
        if account.topic_id is not None
    }
    # Also where it is not known: that of another offset must not stay beside this one.
    epochs = {p.epoch_application: 0 if a.leader_epoch is None else a.leader_epoch + 1 for p, a in accounts.items()}
    return offsets | commits | complete | topics | epochs


def _taken(partition: TopicPartition, account: Account, found: Position) -> str:
    return (
        f"Another consumer has committed {partition}: its offset was {account.from_offset} after {account.commit - 1} commits when "
        f"we last saw it, and is {found.offset} after {found.commits} now. Nothing of ours was published; this consumer stops. "
        "Its partition was given to the other one, as after a pause longer than [kafka] session_timeout; or a consumer of another "
        "[kafka] group_id fills the same lake."
    )
