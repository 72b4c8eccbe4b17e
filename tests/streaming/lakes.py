"""Lakes made by an ingest over fakes, for the tests of what is done to lakes."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pyarrow as pa

from streaming.assembler import Assembler, ClosedWindows
from streaming.lake import scan_windows
from streaming.offsets import Account, TopicPartition
from streaming.rows import windows_table
from streaming.settings import LakeSettings
from streaming.storage import Lake
from streaming.windows import WindowsTable

from .sessions import EPOCH, NOW, SECOND, SETTINGS, batch

P0 = TopicPartition(topic="sensor.batches", partition=0)
P1 = TopicPartition(topic="sensor.batches", partition=1)
LATER = datetime(2100, 1, 1, tzinfo=UTC)


def session_rows(
    session: str = "s1", seconds: int = 4, *, partition: TopicPartition = P0, device: str = "d1", start_ns: int = EPOCH,
    first_offset: int = 0,
) -> pa.Table:  # fmt: skip
    """The windows of a session of so many seconds, of a batch a second."""
    assembler = Assembler(SETTINGS, {})
    closed: list[ClosedWindows] = []
    for i in range(seconds):
        b = batch(i, session=session, device=device, start_ns=start_ns + i * SECOND, end=i == seconds - 1)
        closed += assembler.add(b, first_offset + i, NOW)
    return windows_table(closed, SETTINGS, topic=partition.topic, partition=partition.partition, ingested_at=NOW)


class Writer:
    """Publishes one session a commit, as the owner of a partition does."""

    def __init__(self, lake: LakeSettings, partition: TopicPartition = P0) -> None:
        self.table = WindowsTable(lake, SETTINGS.sensors)
        self.partition = partition

    def publish(self, session: str, *, seconds: int = 4, start_ns: int = EPOCH, device: str = "d1") -> int:
        found = self.table.position(self.partition)
        at = found.offset or 0
        rows = session_rows(
            session, seconds, partition=self.partition, device=device, start_ns=start_ns, first_offset=at
        )
        account = Account(
            commit=found.commits + 1, from_offset=at, to_offset=at + seconds, read_to=at + seconds, batches=seconds,
            windows=rows.num_rows, rows_before=self.table.rows(self.partition),
        )  # fmt: skip
        return self.table.publish(rows, {self.partition: account})


def settings(folder: Path | str, **values: object) -> LakeSettings:
    return LakeSettings(uri=str(folder), **values)  # type: ignore[arg-type]


def lake_rows(lake: Lake, version: int | None = None) -> pl.DataFrame:
    return scan_windows(lake, version).sort("window_id", "last_offset").collect()
