"""Ingestion when something around it does not work as it should: late owners, outages, full disks, too little memory."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from itertools import chain, repeat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streaming.client import Membership, Record
from streaming.errors import ClientError, LakeError, LostOwnership, OverBudget
from streaming.faults import hooked
from streaming.ingest import Ingest
from streaming.lake import table_version, valid_through
from streaming.offsets import TopicPartition
from streaming.progress import Progress, moment
from streaming.verify import verify
from streaming.wire import SensorBatch

from .sessions import EPOCH, NOW, SECOND, SETTINGS, batch
from .test_ingest import P0, P1, Rig, log, session

FOLDER_IS_FULL = OSError(28, "No space left on device")


def endless(seconds: int, name: str = "s1") -> list[SensorBatch]:
    return session(seconds + 1, name)[:-1]


class TestLateOwners:
    def test_an_owner_before_us_that_commits_after_we_got_its_partition_does_not_stop_us(self, tmp_path: Path) -> None:
        logs = {P0: log(session(9)), P1: log(session(9, "s2"))}
        late = Rig(tmp_path, logs, commit_rows=1000)
        for _ in range(2):
            late.ingest.step()
        owner = Rig(tmp_path, logs, commit_rows=1000)
        for _ in range(3):
            owner.ingest.step()
        late.ingest.commit()
        counters = owner.until_caught_up()
        assert counters["taken_anew"] >= 1
        assert owner.rows().height == 18
        assert owner.rows()["acc_fresh"].sum() == 18 * 25
        assert verify(str(tmp_path)).problems == ()

    def test_once_we_have_committed_whoever_else_does_is_no_owner_before_us(self, tmp_path: Path) -> None:
        """Two groups that fill one lake: neither may go on as if nothing were."""
        logs = {P0: log(endless(40))}
        one, two = Rig(tmp_path, logs, commit_rows=1), Rig(tmp_path, logs, commit_rows=1)
        for _ in range(3):
            one.ingest.step()
        for _ in range(3):
            two.ingest.step()
        with pytest.raises(LostOwnership, match=r"another \[kafka\] group_id"):
            one.ingest.step()
        assert verify(str(tmp_path)).problems == ()

    def test_a_member_that_kafka_does_not_know_any_more_stops(self, tmp_path: Path) -> None:
        logs = {P0: log(session(9))}
        zombie, owner = Rig(tmp_path, logs, commit_rows=1000), Rig(tmp_path, logs)
        zombie.ingest.step()
        owner.until_caught_up()
        zombie.source.membership = Membership.GONE
        with pytest.raises(LostOwnership):
            zombie.ingest.commit()

    @pytest.mark.parametrize("then", [Membership.OWNER, Membership.GONE])
    def test_while_kafka_does_not_say_whose_it_is_it_is_not_read(self, tmp_path: Path, then: Membership) -> None:
        logs = {P0: log(session(9))}
        rig, other = Rig(tmp_path, logs, commit_rows=1000), Rig(tmp_path, logs)
        rig.ingest.step()
        other.until_caught_up()
        rig.source.membership = Membership.UNSURE
        rig.ingest.commit()
        for _ in range(3):
            rig.ingest.step()
        assert rig.source.paused == {P0}
        rig.source.membership = then
        if then is Membership.GONE:
            with pytest.raises(LostOwnership):
                rig.ingest.step()
        else:
            rig.until_caught_up()
        assert rig.rows().height == 9

    def test_not_more_than_a_few_late_owners_are_believed(self, tmp_path: Path) -> None:
        logs = {P0: log(endless(100))}
        rig = Rig(tmp_path, logs, commit_rows=1000)
        rig.ingest.step()

        def somebody_else_commits_first() -> None:
            other = Rig(tmp_path, logs, commit_rows=1)
            for _ in range(3):
                other.ingest.step()
            rig.ingest.step()
            rig.ingest.step()
            rig.ingest.commit()

        for _ in range(3):
            somebody_else_commits_first()
        assert rig.ingest.counters()["taken_anew"] == 3
        with pytest.raises(LostOwnership):
            somebody_else_commits_first()

    def test_a_partition_that_comes_back_as_it_was_goes_on_where_it_was(self, tmp_path: Path) -> None:
        rig = Rig(tmp_path, {P0: log(endless(30))}, commit_rows=1000)
        for _ in range(3):
            rig.ingest.step()
        rig.source.revoke(P0)
        rig.source.assign(P0)
        counters = rig.until_caught_up()
        assert counters["records"] == 30, "none is read twice"
        assert counters["continuations"] == 1
        assert rig.rows().height == 25

    def test_one_that_somebody_else_had_meanwhile_is_read_anew(self, tmp_path: Path) -> None:
        logs = {P0: log(session(30))}
        rig = Rig(tmp_path, logs, commit_rows=1000)
        for _ in range(3):
            rig.ingest.step()
        rig.source.revoke(P0)
        rig.ingest.step()
        other = Rig(tmp_path, logs, commit_rows=3)
        for _ in range(4):
            other.ingest.step()
        other.ingest.commit()
        rig.source.assign(P0)
        counters = rig.until_caught_up()
        assert "continuations" not in counters
        assert "taken_anew" not in counters, "it was looked up, not found out by a refused commit"
        assert rig.rows()["acc_fresh"].sum() == 30 * 25
        assert verify(str(tmp_path)).problems == ()


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


class TestWaiting:
    def test_a_full_disk_is_waited_for(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        rig = Rig(tmp_path, {P0: log(endless(30))}, commit_rows=5)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("streaming.storage.os.fsync", _refuse)
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
            patch.setattr("streaming.storage.os.fsync", _refuse)
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
        rig.clock.advance(61)
        rig.ingest.step()
        rig.ingest.commit()
        assert rig.rows()["acc_fresh"].sum() == 20 * 25

    def test_what_waits_in_kafka_is_no_silence_of_phones(self, tmp_path: Path) -> None:
        """A phone's later batches lie behind those of another one, and reading that far takes longer than the idle time-out."""
        mine, other = endless(20), endless(60, "s2")
        rig = Rig(tmp_path, {P0: log([*mine[:10], *other, *mine[10:]])}, max_poll_records=4)
        while rig.ingest.counters().get("records", 0) < 72:
            rig.ingest.step()
            rig.clock.advance(10)
            assert rig.ingest.counters().get("idle_sessions", 0) == 0

    def test_a_pause_of_ours_is_no_silence_of_phones(self, tmp_path: Path) -> None:
        records = log(endless(20))
        rig = Rig(tmp_path, {P0: records}, commit_rows=1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("streaming.storage.os.fsync", _refuse)
            for _ in range(10):
                rig.ingest.step()
                rig.clock.advance(30)
        rig.clock.advance(30)
        counters = rig.until_caught_up()
        assert counters["failed_tries"] > 1
        assert counters.get("late_samples", 0) == counters.get("idle_sessions", 0) == 0


class TestMemory:
    def test_partitions_that_do_not_fit_together_take_turns(self, tmp_path: Path) -> None:
        """Each of three needs more than half of the budget for its open windows."""
        partitions = [TopicPartition(topic="sensor.batches", partition=i) for i in range(3)]
        logs = {p: log(interleaved(12, seconds=12, prefix=f"p{p.partition}", ended=True)) for p in partitions}
        rig = Rig(tmp_path, logs, commit_rows=10_000, memory_budget=1 << 20)
        rig.ingest._ours.budget.limit = 250_000
        for _ in range(400):
            rig.ingest.step()
            assert rig.ingest.held_bytes <= 250_000 + 5_000
            rig.clock.advance(1)
        counters = rig.ingest.counters()
        assert counters["memory_turns"] >= 1
        assert counters["commits_memory"] >= 1
        rig.ingest.commit()
        assert rig.rows()["acc_fresh"].sum() == 3 * 12 * 12 * 25
        assert verify(str(tmp_path)).problems == ()

    def test_one_partition_that_needs_more_is_an_error_that_says_what_to_change(self, tmp_path: Path) -> None:
        rig = Rig(tmp_path, {P0: log(interleaved(100, seconds=5))}, memory_budget=1 << 20)
        rig.ingest._ours.budget.limit = 200_000
        with pytest.raises(OverBudget, match=r"open sessions of sensor.batches\[0\] need.*memory_budget"):
            rig.until_caught_up()

    @settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    @given(data=st.data())
    def test_whatever_comes_the_budget_holds(
        self, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
    ) -> None:
        """Sessions that never end, one phone that sends half of all, phones whose clock stands still; commits may fail."""
        phones = data.draw(st.integers(1, 12))
        seconds = data.draw(st.integers(5, 25))
        greedy = data.draw(st.booleans())
        frozen = data.draw(st.booleans())
        folder = tmp_path_factory.mktemp("budget")
        batches = list(interleaved(phones, seconds=seconds))
        if greedy:
            batches = [b for pair in zip(batches, endless(len(batches), "greedy"), strict=True) for b in pair]
        if frozen:
            batches += [batch(i, session="frozen", device="f", start_ns=EPOCH) for i in range(60)]
        half = len(batches) // 2
        rig = Rig(
            folder, {P0: log(batches[:half]), P1: log(replaced(batches[half:]))}, commit_rows=10_000, memory_budget=1 << 20,
        )  # fmt: skip
        limit = data.draw(st.integers(20_000, 300_000))
        rig.ingest._ours.budget.limit = limit
        most = 0

        def looked(_: str) -> None:
            nonlocal most
            most = max(most, rig.ingest.held_bytes)

        try:
            with hooked(looked):
                for _ in range(200):
                    rig.ingest.step()
                    most = max(most, rig.ingest.held_bytes)
                    rig.clock.advance(1)
        except OverBudget:
            pass
        largest = 40_000  # what one batch may close: a session's windows, each sample in two of them
        assert most <= limit + largest


class TestStopping:
    def test_after_a_stop_nothing_is_read_twice_where_sessions_have_ended(self, tmp_path: Path) -> None:
        logs = {P0: log([*session(9), *session(5, "s2")]), P1: log(session(7, "s3"))}
        rig = Rig(tmp_path, logs, commit_rows=1000)
        stop = chain([False] * 7, repeat(True))
        rig.ingest.run(stop=lambda: next(stop))
        assert rig.rows().height == 21
        rig.restart()
        assert rig.until_caught_up().get("records", 0) == 0

    def test_with_open_windows_only_what_they_need_is_read_again(self, tmp_path: Path) -> None:
        rig = Rig(tmp_path, {P0: log([*session(9), *endless(20, "s2")])}, commit_rows=1000)
        stop = chain([False] * 11, repeat(True))
        rig.ingest.run(stop=lambda: next(stop))
        committed = rig.source.hints[P0]
        needed = rig.ingest._ours.owned[P0].assembler.needed_offset()
        assert needed == committed > 9
        rig.restart()
        assert rig.until_caught_up()["records"] == 29 - committed


class TestCompleteness:
    def test_open_windows_say_until_when_a_partition_is_complete(self, tmp_path: Path) -> None:
        rig = Rig(tmp_path, {P0: log(endless(20))})
        rig.until_caught_up()
        open_since = rig.ingest._ours.owned[P0].assembler.open_since_ns()
        found = valid_through(str(tmp_path))
        assert open_since is not None
        assert found.partitions == {P0: moment(open_since)}
        assert found.overall == moment(open_since)
        newest = rig.rows()["start_ns"].max()
        assert open_since == newest + SETTINGS.hop_ns, "all before it is there, and nothing from it on"

    def test_where_nothing_is_open_it_is_complete_until_it_was_read(self, tmp_path: Path) -> None:
        rig = Rig(tmp_path, {P0: log(session(9))})
        rig.until_caught_up()
        assert valid_through(str(tmp_path)).overall == NOW

    def test_the_least_partition_decides_and_a_quiet_one_does_not_hold_the_others_back(self, tmp_path: Path) -> None:
        records = log(endless(40, "s2"))
        logs = {P0: log(session(9)), P1: records[:20]}
        rig = Rig(tmp_path, logs)
        rig.until_caught_up()
        logs[P1] = records
        rig.clock.advance(20)
        rig.until_caught_up()
        found = valid_through(str(tmp_path))
        assert found.partitions[P0] == NOW + timedelta(seconds=20)
        assert found.overall == found.partitions[P1] < found.partitions[P0]

    def test_an_older_version_says_what_it_was(self, tmp_path: Path) -> None:
        records = log(endless(40))
        logs = {P0: records[:20]}
        rig = Rig(tmp_path, logs)
        rig.until_caught_up()
        version, before = table_version(str(tmp_path)), valid_through(str(tmp_path))
        logs[P0] = records
        rig.until_caught_up()
        assert valid_through(str(tmp_path)).overall > before.overall  # type: ignore[operator]
        assert valid_through(str(tmp_path), version) == before

    def test_a_phone_that_comes_back_with_old_data_makes_it_incomplete_again(self, tmp_path: Path) -> None:
        old = [
            batch(i, session="old", device="offline", start_ns=EPOCH - 3_600 * SECOND + i * SECOND) for i in range(5)
        ]
        logs = {P0: log(endless(20))}
        rig = Rig(tmp_path, logs)
        rig.until_caught_up()
        logs[P0] = log([*endless(20), *old, *endless(21)[20:]])
        rig.until_caught_up()
        assert valid_through(str(tmp_path)).overall == moment(EPOCH - 3_600 * SECOND)


def test_the_watcher_is_told_how_far_it_is(tmp_path: Path) -> None:
    rig = Rig(tmp_path, {P0: log(endless(20))}, commit_rows=10_000)
    seen: list[Progress] = []
    rig.ingest = Ingest(
        source=rig.source, table=rig.ingest._table, dead_letters=rig.dead_letters, windows=SETTINGS, settings=rig.settings,
        clock=rig.clock, watch=seen.append,
    )  # fmt: skip
    rig.ingest.step()
    rig.clock.advance(1)
    rig.ingest.step()
    (first,) = seen[0].partitions
    assert (first.partition, first.position, first.end, first.lag) == (P0, 4, 20, 16)
    assert seen[0].held_bytes > 0
    rig.until_caught_up()
    assert seen[-1].commits[-1][0] == "stop"
    assert seen[-1].partitions[0].lag == 0


def interleaved(phones: int, *, seconds: int, prefix: str = "m", ended: bool = False) -> Iterator[SensorBatch]:
    for i in range(seconds):
        for phone in range(phones):
            yield batch(i, session=f"{prefix}-{phone}", device=f"{prefix}-{phone}", end=ended and i == seconds - 1)


def replaced(batches: list[SensorBatch]) -> list[SensorBatch]:
    """The same as other phones'."""
    return [replace(b, device_id=f"x{b.device_id}", session_id=f"x{b.session_id}") for b in batches]


def _refuse(_: int) -> None:
    raise FOLDER_IS_FULL
