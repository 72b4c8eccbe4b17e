"""Ingestion whose partitions others have had, or want: late owners, zombies, rebalances."""

from __future__ import annotations

from pathlib import Path

import pytest

from streaming.client import Membership
from streaming.errors import LakeError, LostOwnership
from streaming.offsets import TopicPartition
from streaming.publish import Position
from streaming.verify import verify

from .ingesting import P0, P1, Rig, log, session
from .operating import endless


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

    def test_nor_if_the_lake_could_not_be_read_meanwhile(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each time somebody else commits first, and then the lake cannot be read: that does not begin the count again."""
        logs = {P0: log(endless(100))}
        rig = Rig(tmp_path, logs, commit_rows=1000)
        rig.ingest.step()
        table = rig.ingest._table
        real = table.position

        def unreadable(partition: TopicPartition) -> Position:
            monkeypatch.setattr(table, "position", real)
            msg = f"the log of {partition} cannot be read"
            raise LakeError(msg)

        def somebody_else_commits_first() -> None:
            other = Rig(tmp_path, logs, commit_rows=1)
            for _ in range(3):
                other.ingest.step()
            rig.ingest.step()
            rig.ingest.step()

        for _ in range(3):
            somebody_else_commits_first()
            monkeypatch.setattr(table, "position", unreadable)
            with pytest.raises(LakeError, match="cannot be read"):
                rig.ingest.commit()
            rig.ingest.step()
        assert rig.ingest.counters()["taken_anew"] == 3
        somebody_else_commits_first()
        with pytest.raises(LostOwnership):
            rig.ingest.commit()

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

    def test_one_whose_topic_was_made_anew_meanwhile_is_read_from_its_beginning(self, tmp_path: Path) -> None:
        """Nobody has committed it, so that the table says of neither topic that it was read."""
        rig = Rig(tmp_path, {P0: log(endless(30))}, commit_rows=1000)
        rig.source.topic_ids[P0.topic] = 1
        for _ in range(3):
            rig.ingest.step()
        rig.source.revoke(P0)
        rig.source.topic_ids[P0.topic] = 2
        rig.logs[P0][:] = log(session(40, "s2"))
        rig.source.assign(P0)
        counters = rig.until_caught_up()
        assert "continuations" not in counters
        assert set(rig.rows()["session_id"]) == {"s2"}
        assert rig.rows()["acc_fresh"].sum() == 40 * 25
        assert verify(str(tmp_path)).problems == ()

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

    def test_a_lake_that_cannot_be_read_while_a_partition_is_taken_anew_is_waited_for(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        logs = {P0: log(session(9))}
        rig, other = Rig(tmp_path, logs, commit_rows=5), Rig(tmp_path, logs, commit_rows=2)
        rig.ingest.step()
        for _ in range(3):
            other.ingest.step()
        other.ingest.commit()
        table, failing = rig.ingest._table, iter([True])
        real = table.position

        def position(partition: TopicPartition) -> Position:
            if next(failing, False):
                msg = "the log cannot be read"
                raise LakeError(msg)
            return real(partition)

        monkeypatch.setattr(table, "position", position)
        for _ in range(30):
            rig.ingest.step()
            rig.clock.advance(1)
        counters = rig.ingest.counters()
        assert (counters["taken_anew"], counters["failed_tries"]) == (1, 1)
        assert rig.rows().height == 9
        assert verify(str(tmp_path)).problems == ()
