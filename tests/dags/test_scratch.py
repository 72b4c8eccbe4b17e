"""Room for what tasks write on their way."""

from __future__ import annotations

from pathlib import Path

from dags import scratch
from dags.settings import load


def test_a_run_has_a_folder_of_its_own_until_it_is_cleared(tmp_path: Path) -> None:
    settings = load({"SENSORLOOP_HOME": str(tmp_path), "SENSORLOOP_CONFIG": "/dev/null"})
    names = ("manual__2026-11-25T03:45:55.1+00:00", "manual__2026-11-25T03:45:55_1+00:00", "../../etc")
    places = [scratch.make(settings, name) for name in names]
    assert len(set(places)) == 3, "also where names differ by what a folder cannot be called"
    assert {place.parent for place in places} == {tmp_path / "scratch"}
    assert scratch.make(settings, names[0]) == places[0]
    (places[0] / "deep").mkdir()
    (places[0] / "deep" / "left by a task that was killed").write_bytes(b"12345")
    assert scratch.clear(settings, names[0]) == 5
    assert [place.exists() for place in places] == [False, True, True]
    assert scratch.clear(settings, names[0]) == 0, "a second time there is nothing to do"
