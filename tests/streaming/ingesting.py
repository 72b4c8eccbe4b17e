"""An ingest over fakes and a real table, whose clock tests move."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl

from streaming.client import Record
from streaming.ingest import Ingest
from streaming.lake import scan_windows
from streaming.offsets import TopicPartition
from streaming.settings import IngestSettings, LakeSettings
from streaming.windows import WindowsTable
from streaming.wire import SensorBatch, encode
from tests.fakes.source import FakeDeadLetters, FakeSource

from .sessions import NOW, SECOND, SETTINGS, batch

P0 = TopicPartition(topic="sensor.batches", partition=0)
P1 = TopicPartition(topic="sensor.batches", partition=1)
NOW_NS = int(NOW.timestamp()) * SECOND


class Clock:
    """Our clock, moved by tests."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def log(batches: Iterable[SensorBatch | bytes | None]) -> list[Record]:
    values = [encode(b) if isinstance(b, SensorBatch) else b for b in batches]
    return [Record(offset=i, timestamp_ns=NOW_NS, key=b"d1", value=v) for i, v in enumerate(values)]


def session(seconds: int, name: str = "s1") -> list[SensorBatch]:
    return [batch(i, session=name, device=f"of-{name}", end=i == seconds - 1) for i in range(seconds)]


class Rig:
    """An ingest over fakes and a real table; ``restart`` is what a crash leaves."""

    def __init__(
        self, folder: Path, logs: dict[TopicPartition, list[Record]], commit_rows: int = 3, **limits: int
    ) -> None:
        self.folder, self.logs = folder, logs
        self.settings = IngestSettings(commit_rows=commit_rows, commit_interval=timedelta(seconds=30), **limits)
        self.clock = Clock()
        self.dead_letters = FakeDeadLetters()
        self.restart()

    def restart(self) -> None:
        self.source = FakeSource(self.logs, poll_records=4)
        self.source.assign(*self.logs)
        self.ingest = Ingest(
            source=self.source, dead_letters=self.dead_letters, windows=SETTINGS,
            table=WindowsTable(LakeSettings(uri=str(self.folder)), SETTINGS.sensors),
            settings=self.settings, clock=self.clock,
        )  # fmt: skip

    def until_caught_up(self) -> dict[str, int]:
        self.ingest.run(stop=self.ingest.caught_up)
        return self.ingest.counters()

    def quiet(self, seconds: int) -> None:
        """Steps while nothing comes, two seconds apart: of a longer one no more counts as silence."""
        for _ in range(0, seconds, 2):
            self.clock.advance(2)
            self.ingest.step()

    def rows(self) -> pl.DataFrame:
        return scan_windows(str(self.folder)).drop("ingested_at", "next_sequence").sort("window_id").collect()
