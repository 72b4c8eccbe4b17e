"""The ``windows`` table, as its writer sees it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import polars as pl
import pyarrow as pa

from streaming.assembler import SessionKey, SessionMemory
from streaming.errors import LakeError
from streaming.offsets import Account, TopicPartition
from streaming.publish import Position, Publisher
from streaming.settings import LakeSettings, WindowSettings
from streaming.storage import Storage
from streaming.tables import PARTITION_COLUMN, SIGNAL, WINDOWS, windows_schema


class WindowsTable:
    """The ``windows`` table; made if it is not there.

    Args:
        settings: where the lake is.
        sensors: names of the sensors that have columns.

    Raises:
        LakeError: a table is there with other columns.
    """

    def __init__(self, settings: LakeSettings, sensors: Iterable[str]) -> None:
        self._publisher = Publisher(
            Storage(settings, WINDOWS), windows_schema(sensors), partition_column=PARTITION_COLUMN,
            compression_level=settings.compression_level,
        )  # fmt: skip

    def require_cut(self, windows: WindowSettings) -> None:
        """Let windows pass that are cut as those that are there: of two kinds in one lake nothing can be learned together.

        Raises:
            LakeError: those that are there are of another length or rate, or cannot be read.
        """
        channels = [field.name for field in self._publisher.schema if field.type == SIGNAL]
        first = self._publisher.table.read(
            lambda rows: (
                rows.select(
                    (pl.col("end_ns") - pl.col("start_ns")).alias("length_ns"),
                    pl.coalesce(pl.col(channel).list.len() for channel in channels).alias("values"),
                )
                .drop_nulls()
                .head(1)
            )
        )
        for length_ns, values in first.iter_rows():
            # In whole numbers: 230 ÷ 2.3 is not 100.
            if length_ns != windows.length_ns or values * 1_000_000_000 != windows.rate_hz * length_ns:
                msg = (
                    f"The lake {self._publisher.table.storage.uri} has windows of {length_ns / 1e9:g} s at "
                    f"{values / (length_ns / 1e9):g} Hz, and "
                    f"[windows] says {windows.length_ns / 1e9:g} s at {windows.rate_hz:g} Hz. Set length and rate_hz as they were, "
                    "or ingest into another lake ([lake] uri, or another SENSORLOOP_HOME)."
                )
                raise LakeError(msg)

    @property
    def version(self) -> int:
        """The newest version this writer knows."""
        return self._publisher.table.version

    def offset(self, partition: TopicPartition) -> int | None:
        """Next Kafka offset to read, as the newest commit has it; None if this partition was never committed."""
        return self.position(partition).offset

    def position(self, partition: TopicPartition) -> Position:
        """See :meth:`streaming.publish.Publisher.position`."""
        return self._publisher.position(partition)

    def sessions(self, partition: TopicPartition, hop_ns: int) -> dict[SessionKey, SessionMemory]:
        """What is published of each session of a partition, as of the version that :meth:`position` saw."""
        rows = self._publisher.read(
            partition,
            lambda rows: rows.group_by("device_id", "session_id").agg(
                pl.col("start_ns").max(), pl.col("next_sequence").max()
            ),
        )
        return {
            SessionKey(row["device_id"], row["session_id"]): SessionMemory(
                next_start_ns=row["start_ns"] + hop_ns, next_sequence=row["next_sequence"]
            )
            for row in rows.iter_rows(named=True)
        }

    def rows(self, partition: TopicPartition) -> int:
        """How many windows of a partition are published, as of the version that :meth:`position` saw."""
        return self._publisher.rows(partition)

    def refuse(self, partition: TopicPartition, ended: int, reason: str) -> None:
        """See :func:`streaming.refusals.note`."""
        self._publisher.refuse(partition, ended, reason)

    def publish(self, windows: pa.Table, accounts: Mapping[TopicPartition, Account]) -> int:
        """See :meth:`streaming.publish.Publisher.publish`."""
        return self._publisher.publish(windows, accounts)
