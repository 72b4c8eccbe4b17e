"""Ingestion and when it commits, on a clock of the test's own."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from streaming.client import Record
from streaming.offsets import TopicPartition

from .ingesting import P0, Rig, log, session
from .operating import endless


class TestRotation:
    def test_a_closed_window_is_visible_within_an_interval(self, tmp_path: Path) -> None:
        """A phone that goes on sending, a batch a second; polls are at most half a second apart."""
        records = log(endless(200))
        logs: dict[TopicPartition, list[Record]] = {P0: []}
        rig = Rig(tmp_path, logs, commit_rows=10_000)
        rig.ingest.step()
        closed: dict[int, float] = {}
        for tick in range(400):
            if tick % 2 == 0:
                logs[P0].append(records[tick // 2])
            rig.ingest.step()
            for start in range(rig.ingest.counters().get("windows", 0)):
                closed.setdefault(start, tick / 2)
            if tick % 10 == 0 or tick > 300:
                visible = rig.rows().height
                late = [start for start, at in closed.items() if start >= visible and tick / 2 - at > 31]
                assert late == []
            rig.clock.advance(0.5)
        counters = rig.ingest.counters()
        assert counters["commits_age"] >= 3
        assert len(closed) > 190

    def test_without_new_data_it_is_committed_all_the_same(self, tmp_path: Path) -> None:
        rig = Rig(tmp_path, {P0: log(endless(20))}, commit_rows=10_000)
        for _ in range(8):
            rig.ingest.step()
        assert rig.ingest.counters().get("commits", 0) == 0
        rig.clock.advance(5)
        rig.ingest.step()
        assert rig.ingest.counters()["commits_idle"] == 1
        assert rig.rows().height == 15

    def test_its_reason_is_logged(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        rig = Rig(tmp_path, {P0: log(session(9))}, commit_rows=5)
        rig.until_caught_up()
        assert any("Committed 9 windows of 1 partitions" in line and "(size)" in line for line in caplog.messages)
