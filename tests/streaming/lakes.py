"""Lakes made by an ingest over fakes, for the tests of what is done to lakes."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pyarrow as pa

from streaming.assembler import Assembler, ClosedWindows
from streaming.label_wire import SceneLabel
from streaming.labels_table import LabelsTable, labels_rows
from streaming.lake import scan_windows
from streaming.offsets import Account, TopicPartition
from streaming.rows import windows_table
from streaming.settings import LakeSettings
from streaming.storage import Lake
from streaming.windows import WindowsTable

from .sessions import EPOCH, NOW, SECOND, SETTINGS, batch

P0 = TopicPartition(topic="sensor.batches", partition=0)
P1 = TopicPartition(topic="sensor.batches", partition=1)
LABELS0 = TopicPartition(topic="sensor.labels", partition=0)
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


class LabelWriter:
    """Publishes labels, as the owner of a partition of the labels topic does."""

    def __init__(self, lake: LakeSettings) -> None:
        self.table = LabelsTable(lake)

    def next(self, count: int, *said: SceneLabel) -> tuple[pa.Table, Account]:
        """What the next commit would be: so many labels, those given or some of no meaning."""
        found = self.table.position(LABELS0)
        at = found.offset or 0
        labels = said or [
            SceneLabel(
                device_id="d1", start_ns=at + i, end_ns=at + i + 1, scene="Walk", said_by="ana", said_ns=EPOCH + i
            )
            for i in range(count)
        ]
        account = Account(
            commit=found.commits + 1, from_offset=at, to_offset=at + count, read_to=at + count, batches=count, windows=count,
            rows_before=self.table.rows(LABELS0),
        )  # fmt: skip
        return labels_rows(LABELS0, list(enumerate(labels, at)), NOW), account

    def publish(self, count: int = 0, *said: SceneLabel) -> int:
        rows, account = self.next(count or len(said), *said)
        return self.table.publish(rows, {LABELS0: account})


def settings(folder: Path | str, **values: object) -> LakeSettings:
    return LakeSettings(uri=str(folder), **values)  # type: ignore[arg-type]


def lake_rows(lake: Lake, version: int | None = None) -> pl.DataFrame:
    return scan_windows(lake, version).sort("window_id", "last_offset").collect()
