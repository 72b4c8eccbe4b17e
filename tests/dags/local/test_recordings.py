from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from dags import commands
from dags.errors import CommandRefused
from dags.local.recordings import through_kafka
from dags.settings import load
from streaming.fleet import simulate, target_fleet
from streaming.lake import scan_windows
from streaming.recording import Samples, read_recording, write_recording


@pytest.mark.broker
def test_recordings_go_through_kafka_into_a_lake_of_their_own_once(
    bootstrap_servers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = simulate(target_fleet(seed=1, size=0.1), tmp_path / "recordings")
    for name, value in (
        ("SENSORLOOP_HOME", str(tmp_path)), ("SENSORLOOP_CONFIG", os.devnull), ("KAFKA_BOOTSTRAP_SERVERS", bootstrap_servers),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    lake = through_kafka(load(), tmp_path / "experiments", tmp_path / "recordings")
    found = scan_windows(lake).select("session_id", "cohort").unique().collect()
    assert set(found["cohort"]) == {"target"}
    assert 0 < found.height <= len(manifest.sessions)
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    assert through_kafka(load(), tmp_path / "experiments", tmp_path / "recordings") == lake, "made once"
    # A label that is put right leaves a file as long as it was.
    file = next((tmp_path / "recordings").rglob("*.parquet"))
    content = file.read_bytes()
    file.write_bytes(content[:-5] + bytes([content[-5] ^ 1]) + content[-4:])

    def refused(*_: object, **__: object) -> None:
        msg = "sent again"
        raise CommandRefused(msg)

    monkeypatch.setattr(commands, "run", refused)
    with pytest.raises(CommandRefused, match="sent again"):
        through_kafka(load(), tmp_path / "experiments", tmp_path / "recordings")


@pytest.mark.broker
def test_what_of_the_recordings_is_not_in_the_lake_is_said_each_time(
    bootstrap_servers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "recordings"
    simulate(target_fleet(seed=1, size=0.1), tmp_path / "fleet")
    one = read_recording(min((tmp_path / "fleet").rglob("*.parquet"), key=lambda file: file.stat().st_size))
    write_recording(folder / "a.parquet", one)
    write_recording(folder / "b.parquet", one)
    century = 100 * 365 * 86_400 * 10**9
    ahead = {name: Samples(times + century, values) for name, (times, values) in one.samples.items()}
    write_recording(folder / "c.parquet", replace(one, session_id="ahead", samples=ahead))
    for name, value in (
        ("SENSORLOOP_HOME", str(tmp_path)), ("SENSORLOOP_CONFIG", os.devnull), ("KAFKA_BOOTSTRAP_SERVERS", bootstrap_servers),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    through_kafka(load(), tmp_path / "experiments", folder)
    first = " ".join(capsys.readouterr().err.split())
    through_kafka(load(), tmp_path / "experiments", folder)
    again = " ".join(capsys.readouterr().err.split())
    assert "a.parquet already: one file holds one session" in first
    for said in (first, again):
        assert f"{folder}: 1 file was refused and left out; 'sensorloop replay' says why." in said
        assert f"of {2 * one.size:,} samples {one.size:,} are not in the lake, 0 twice; refused were" in said
        assert "batches far future ([windows] max_ahead says how far ahead is believed)" in said
