"""Until when ingestion says that the lake is complete, and how far it says it is."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from streaming.ingest import Ingest
from streaming.lake import table_version, valid_through
from streaming.progress import Progress, moment

from .ingesting import P0, P1, Rig, log, session
from .operating import endless
from .sessions import EPOCH, NOW, SECOND, SETTINGS, batch


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
