"""The seam to delta-rs: everything that is said to it, and its errors as ours.

Tried with deltalake 1.6.6, and what follows from it here:

* Two commits that remove the same file both pass. Whoever removes files must carry an application transaction of its own.
* A commit is refused if the table's properties were changed since the version it was prepared at; :meth:`Table.fence` uses that.
* Application transactions survive checkpoints and the deletion of old log files; a commit's metadata does not.
* In an S3-compatible store the second of two commits is refused by a conditional put.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import polars as pl
import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction

from streaming.errors import CommitConflict, LakeError, NoTable
from streaming.storage import Storage, plain

_FENCE = "sensorloop.fence"


@dataclass(frozen=True, kw_only=True, slots=True)
class TableFile:
    """A Parquet file that a version of a table names, or will."""

    path: str
    """Relative to the table."""
    size: int
    rows: int
    partition: Mapping[str, str | None]
    statistics: str = ""
    """Delta's, as JSON; empty where it was only read."""


class _DeltaTable(DeltaTable):  # type: ignore[misc]  # deltalake's types are not followed
    """A table whose addresses are paths.

    delta-rs percent-encodes them (``my%20lake``), and polars opens what it is told: https://github.com/pola-rs/polars/issues/20944.
    """

    @property
    def table_uri(self) -> str:
        return unquote(super().table_uri)

    def file_uris(self, *arguments: Any, **options: Any) -> list[str]:
        return [unquote(uri) for uri in super().file_uris(*arguments, **options)]


class Table:
    """A Delta table at a version. Get one from :func:`open_table` or :func:`create_table`."""

    def __init__(self, delta: DeltaTable, storage: Storage) -> None:
        self._delta = delta
        self.storage = storage

    @property
    def version(self) -> int:
        """The version this is at."""
        return int(self._delta.version())

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return [field.name for field in self._delta.schema().fields]

    def refresh(self) -> None:
        """Go to the newest version.

        Raises:
            LakeError: the log cannot be read.
        """
        with _ours(self.storage):
            self._delta.update_incremental()

    def transaction(self, application: str) -> int | None:
        """The version an application last committed; None if it never did."""
        found = self._delta.transaction_version(application)
        return None if found is None else int(found)

    def files(self) -> list[TableFile]:
        """The files of this version, by path."""
        with _ours(self.storage):
            actions = pa.table(self._delta.get_add_actions(flatten=True)).to_pylist()
        files = [
            TableFile(
                path=action["path"], size=int(action["size_bytes"]), rows=int(action["num_records"] or 0),
                partition={
                    name.removeprefix("partition."): None if value is None else str(value)
                    for name, value in action.items() if name.startswith("partition.")
                },
            )
            for action in actions
        ]  # fmt: skip
        return sorted(files, key=lambda file: file.path)

    def scan(self) -> pl.LazyFrame:
        """The rows."""
        return pl.scan_delta(self._delta)

    def read(self, query: Callable[[pl.LazyFrame], pl.LazyFrame]) -> pl.DataFrame:
        """What a query over the rows gives.

        Raises:
            LakeError: they cannot be read.
        """
        with _ours(self.storage):
            return query(self.scan()).collect()

    def commit(
        self,
        *,
        schema: pa.Schema | None = None,
        add: Sequence[TableFile] = (),
        remove: Sequence[TableFile] = (),
        transactions: Mapping[str, int],
        metadata: Mapping[str, Any],
        data_change: bool = True,
    ) -> None:
        """Add and remove files and move applications' transactions, all at once or not at all; then be at that version.

        Commits of others since this version are allowed, unless they moved one of ``transactions`` or raised the fence.

        Args:
            schema: of the table; may be left out where no rows come with it.
            add: files that are in the storage.
            remove: files that this version names; their files stay.
            transactions: application → version.
            metadata: goes into the commit's record in the log.
            data_change: False if the rows are the same before and after.

        Raises:
            CommitConflict: another commit since this version does not allow ours. Nothing of ours is in the table.
            LakeError: the commit failed for another reason; whether it took effect is not known.
        """
        now = int(time.time() * 1000)
        actions: list[AddAction | RemoveAction] = [
            AddAction(
                path=file.path, size=file.size, partition_values=dict(file.partition), modification_time=now,
                data_change=data_change, stats=file.statistics,
            )
            for file in add
        ]  # fmt: skip
        actions += [
            RemoveAction(file.path, data_change, now, size=file.size, partition_values=dict(file.partition))
            for file in remove
        ]
        properties = CommitProperties(
            app_transactions=[Transaction(application, version) for application, version in transactions.items()],
            custom_metadata=dict(metadata),
        )
        before = self.version
        with _ours(self.storage):
            self._delta.create_write_transaction(
                actions, mode="append", schema=self._delta.schema() if schema is None else schema,
                partition_by=self._delta.metadata().partition_columns,
                commit_properties=properties,
            )  # fmt: skip
            self._delta.update_incremental()
        # delta-rs does not flush its log, and Kafka must not hear of a commit that a power cut could undo.
        for version in range(before + 1, self.version + 1):
            self.storage.flush(f"_delta_log/{version:020d}.json")

    def append(self, rows: pa.Table, transactions: Mapping[str, int]) -> None:
        """Append rows in delta-rs' own layout: for small tables. A column that the table lacks is added, null in the rows there are."""
        applications = [Transaction(application, version) for application, version in transactions.items()]
        with _ours(self.storage):
            write_deltalake(
                self._delta, rows, mode="append", schema_mode="merge",
                commit_properties=CommitProperties(app_transactions=applications),
            )  # fmt: skip
            self._delta.update_incremental()

    @property
    def fences(self) -> int:
        """How often the fence was raised, up to this version."""
        return int(self._delta.metadata().configuration.get(_FENCE, "0"))

    def fence(self) -> None:
        """Have every commit refused that was prepared before now; then be at the newest version."""
        with _ours(self.storage):
            self._delta.update_incremental()
            self._delta.alter.set_table_properties({_FENCE: str(self.fences + 1)}, raise_if_not_exists=False)
            self._delta.update_incremental()

    def shorten_log(self) -> None:
        """Write a checkpoint of this version and delete what of the log is older than its retention (Delta's default: 30 days)."""
        with _ours(self.storage):
            self._delta.create_checkpoint()
            self._delta.cleanup_metadata()


def open_table(storage: Storage, version: int | None = None) -> Table:
    """A table that is there, at a version (None: the newest).

    Raises:
        NoTable: there is no table.
        LakeError: there is no such version, or it cannot be read.
    """
    try:
        with _ours(storage, f"The table {storage.uri} cannot be read at version {version}"):
            found = _DeltaTable(storage.uri, storage_options=storage.options)
            newest = found.version()
            # Asked for a version that is not there, the library looks for each up to it, one by one.
            if version is not None and not 0 <= version <= newest:
                msg = f"The table {storage.uri} has no version {version}: its newest is {newest}."
                raise LakeError(msg)
            if version is not None and version != newest:
                found.load_as_version(version)
            return Table(found, storage)
    except TableNotFoundError as error:
        lake, _, name = storage.uri.rpartition("/")
        msg = f"There is no table {name} in the lake {lake}: ingest something first, or set [lake] uri."
        raise NoTable(msg) from error


def create_table(storage: Storage, schema: pa.Schema, *, partition_by: Sequence[str] = ()) -> Table:
    """A table, made if it is not there.

    Raises:
        LakeError: it can be neither made nor read.
    """
    with _ours(storage, f"The table {storage.uri} cannot be made"):
        # "ignore": two processes that both find no table must end with one.
        made = _DeltaTable.create(
            storage.uri, schema=schema, mode="ignore", partition_by=list(partition_by), storage_options=storage.options
        )
    return Table(made, storage)


@contextmanager
def _ours(storage: Storage, what: str = "") -> Iterator[None]:
    """Errors of delta-rs and polars as ours; those of a store come as OSError."""
    try:
        yield
    except TableNotFoundError:
        raise
    except CommitFailedError as error:
        msg = f"Another commit to {storage.uri} came first: {plain(error)}"
        raise CommitConflict(msg) from error
    except (DeltaError, pl.exceptions.PolarsError, OSError) as error:
        msg = f"{what or f'The table {storage.uri} cannot be read or written'}: {plain(error)}"
        raise LakeError(msg) from error
