"""Ingestion with too little memory."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streaming.errors import OverBudget
from streaming.faults import hooked
from streaming.offsets import TopicPartition
from streaming.verify import verify

from .ingesting import P0, P1, Rig, log, session
from .operating import endless, interleaved, replaced
from .sessions import EPOCH, batch


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

    def test_windows_that_wait_to_be_cut_are_committed_before_it_is_too_much(self, tmp_path: Path) -> None:
        """Fewer windows than are cut at once have closed, and the batches behind them alone are more than the budget."""
        batches = [b for phone in range(12) for b in session(4, f"m-{phone}")]
        rig = Rig(tmp_path, {P0: log(batches)}, 10_000, memory_budget=1 << 20)
        rig.source._poll_records = 100
        rig.ingest._ours.budget.limit = 25_000
        rig.until_caught_up()
        assert rig.ingest.counters()["commits_memory"] >= 1
        assert rig.rows()["acc_fresh"].sum() == 12 * 4 * 25

    def test_phones_that_fall_silent_together_are_cut_a_few_at_a_time(self, tmp_path: Path) -> None:
        """What is open fits; its windows, all at once, are twice the budget."""
        phones = 100
        silent = [batch(0, session=f"s-{i}", device=f"d-{i}", samples=6, rate_hz=1) for i in range(phones)]
        rig = Rig(tmp_path, {P0: log(silent)}, 10_000, memory_budget=1 << 20)
        rig.source._poll_records = phones
        rig.ingest._ours.budget.limit = 150_000
        most = 0

        def looked(_: str) -> None:
            nonlocal most
            most = max(most, rig.ingest.held_bytes)

        with hooked(looked):
            for _ in range(100):
                rig.ingest.step()
                looked("")
                rig.clock.advance(1)
        assert rig.ingest.counters()["idle_sessions"] == phones
        assert most <= 150_000 + 64 * 480 + 6 * 480, "one cut more than the budget"
        rig.ingest.commit()
        assert rig.rows()["acc_fresh"].sum() == phones * 6
        assert verify(str(tmp_path)).problems == ()

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
            for owned in rig.ingest._ours.owned.values():
                assert not owned.assembler.flush(), "what had closed could have been committed"
        largest = 40_000  # what one batch may close: a session's windows, each sample in two of them
        assert most <= limit + largest
