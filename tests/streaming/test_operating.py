"""Ingestion when something around it does not work as it should: outages, full disks."""

from __future__ import annotations

from itertools import chain, repeat
from pathlib import Path

import pytest

from streaming.errors import ClientError, LakeError
from streaming.faults import hooked
from streaming.offsets import TopicPartition
from streaming.tables import WINDOWS
from streaming.verify import verify

from .ingesting import P0, P1, Rig, log, session
from .operating import endless, refuse


class TestWaiting:
    def test_a_full_disk_is_waited_for(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        rig = Rig(tmp_path, {P0: log(endless(30))}, commit_rows=5)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("streaming.storage.os.fsync", refuse)
            for _ in range(20):
                rig.ingest.step()
                rig.clock.advance(0.5)
            assert rig.source.paused == {P0}
            assert "No space left on device" in caplog.text
            assert "Reading is paused" in caplog.text
            tries = rig.ingest.counters()["failed_tries"]
            assert 2 <= tries <= 5, "more and more slowly"
            assert rig.rows().height == 0
        rig.clock.advance(60)
        rig.ingest.step()
        assert rig.source.paused == set()
        assert "It works again" in caplog.text
        rig.until_caught_up()
        assert rig.rows().height == 25
        assert rig.ingest.counters()["records"] == 30, "what was held was not read again"
        assert verify(str(tmp_path)).problems == ()

    def test_stopped_while_the_disk_is_full_it_says_so(self, tmp_path: Path) -> None:
        rig = Rig(tmp_path, {P0: log(session(9))}, commit_rows=1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("streaming.storage.os.fsync", refuse)
            stop = chain([False] * 4, repeat(True))
            with pytest.raises(LakeError, match="No space left") as caught:
                rig.ingest.run(stop=lambda: next(stop))
        assert caught.value.retriable

    def test_a_commit_that_took_effect_and_failed_all_the_same_is_not_doubled(self, tmp_path: Path) -> None:
        rig = Rig(tmp_path, {P0: log(endless(30))}, commit_rows=5)
        once = iter([True])

        def fails_after(point: str) -> None:
            if point == "publish.committed" and next(once, False):
                msg = "the store did not answer"
                raise LakeError(msg)

        with hooked(fails_after):
            for _ in range(12):
                rig.ingest.step()
                rig.clock.advance(2)
        counters = rig.until_caught_up()
        assert counters["taken_anew"] == 1
        assert rig.rows().height == 25
        assert rig.rows()["window_id"].is_unique().all()
        assert verify(str(tmp_path)).problems == ()

    def test_dead_letters_that_cannot_be_written_are_waited_for(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rig = Rig(tmp_path, {P0: log([b"poison", *session(9)])}, commit_rows=3)
        real, failing = rig.dead_letters.flush, iter([True] * 3)

        def flush() -> None:
            if next(failing, False):
                msg = "no"
                raise ClientError(msg)
            real()

        monkeypatch.setattr(rig.dead_letters, "flush", flush)
        for _ in range(30):
            rig.ingest.step()
            rig.clock.advance(1)
        assert rig.rows().height == 9
        assert len(rig.dead_letters.safe) == 1
        assert rig.ingest.counters()["failed_tries"] == 3

    def test_a_lake_that_cannot_be_read_at_assignment_is_waited_for(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rig = Rig(tmp_path, {P0: log(session(9))})
        failing = iter([True] * 2)
        real = rig.ingest._table.position

        def position(partition: TopicPartition) -> object:
            if next(failing, False):
                msg = "the log cannot be read"
                raise LakeError(msg)
            return real(partition)

        monkeypatch.setattr(rig.ingest._table, "position", position)
        rig.ingest.step()
        assert rig.source.paused == {P0}
        for _ in range(20):
            rig.ingest.step()
            rig.clock.advance(1)
        rig.ingest.commit()
        assert rig.rows().height == 9

    def test_rows_that_cannot_be_read_at_assignment_are_waited_for(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The log can be read, and a file that it names cannot for a while."""
        logs = {P0: log([*session(9), *session(5, "s2")])}
        Rig(tmp_path, {P0: logs[P0][:9]}).until_caught_up()
        rig = Rig(tmp_path, logs)
        files = list((tmp_path / WINDOWS).rglob("*.parquet"))
        hidden = [file.rename(file.with_suffix(".away")) for file in files]
        for _ in range(3):
            rig.ingest.step()
        assert rig.source.paused == {P0}
        assert rig.ingest.counters()["failed_tries"] == 1
        assert f"The table {tmp_path / WINDOWS} cannot be read" in caplog.text
        for file in hidden:
            file.rename(file.with_suffix(".parquet"))
        rig.clock.advance(1)
        rig.until_caught_up()
        assert rig.rows().height == 14

    def test_kafka_away_is_said_and_is_no_silence_of_phones(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A session is idle after a minute in which it sends nothing: not after one in which nobody could hear it."""
        records = log(endless(20))
        logs = {P0: records[:10]}
        rig = Rig(tmp_path, logs)
        for _ in range(5):
            rig.ingest.step()
        rig.source.answering = False
        for _ in range(10):
            rig.clock.advance(30)
            rig.ingest.step()
        assert "Kafka does not answer" in caplog.text
        rig.source.answering = True
        logs[P0] = records
        rig.ingest.step()
        assert "Kafka answers again" in caplog.text
        counters = rig.until_caught_up()
        assert counters["kafka_outages"] == 1
        assert counters.get("late_samples", 0) == counters.get("idle_sessions", 0) == 0
        rig.quiet(62)
        rig.ingest.commit()
        assert rig.rows()["acc_fresh"].sum() == 20 * 25

    def test_what_waits_in_kafka_is_no_silence_of_phones(self, tmp_path: Path) -> None:
        """A phone's later batches lie behind those of another one, and reading that far takes longer than the idle time-out."""
        mine, other = endless(20), endless(300, "s2")
        rig = Rig(tmp_path, {P0: log([*mine[:10], *other, *mine[10:]])}, max_poll_records=4)
        while rig.ingest.counters().get("records", 0) < 312:
            rig.ingest.step()
            rig.clock.advance(2)
            assert rig.ingest.counters().get("idle_sessions", 0) == 0

    def test_a_commit_that_takes_ten_minutes_is_no_silence_of_phones(self, tmp_path: Path) -> None:
        """What came meanwhile waits in Kafka, that of some phones behind that of others."""
        mine, other = endless(20), endless(20, "s2")
        rig = Rig(tmp_path, {P0: log([*mine[:10], *other, *mine[10:]])}, commit_rows=5)
        with hooked(lambda point: rig.clock.advance(600) if point == "publish.files" else None):
            counters = rig.until_caught_up()
        assert counters["commits"] > 2
        assert counters.get("late_samples", 0) == counters.get("idle_sessions", 0) == 0

    def test_a_partition_without_a_leader_is_no_silence_of_phones(self, tmp_path: Path) -> None:
        """The others go on, so Kafka answers; what its phones send cannot be heard all the same."""
        records = log(endless(20))
        logs = {P0: log(endless(400, "s2")), P1: records[:10]}
        rig = Rig(tmp_path, logs)
        for _ in range(4):
            rig.ingest.step()
        rig.source.mute = {P1}
        for _ in range(80):
            rig.clock.advance(1)
            rig.ingest.step()
        assert rig.ingest.counters()["records"] > 250
        rig.source.mute.clear()
        logs[P1] = records
        counters = rig.until_caught_up()
        assert counters.get("late_samples", 0) == counters.get("idle_sessions", 0) == 0

    def test_a_pause_of_ours_is_no_silence_of_phones(self, tmp_path: Path) -> None:
        records = log(endless(20))
        rig = Rig(tmp_path, {P0: records}, commit_rows=1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("streaming.storage.os.fsync", refuse)
            for _ in range(10):
                rig.ingest.step()
                rig.clock.advance(30)
        rig.clock.advance(30)
        counters = rig.until_caught_up()
        assert counters["failed_tries"] > 1
        assert counters.get("late_samples", 0) == counters.get("idle_sessions", 0) == 0
