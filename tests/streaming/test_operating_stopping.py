"""Ingestion told to stop."""

from __future__ import annotations

from itertools import chain, repeat
from pathlib import Path

from .ingesting import P0, P1, Rig, log, session
from .operating import endless


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
