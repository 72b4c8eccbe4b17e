"""The commands ``sensorloop registry holdouts``, ``renew-holdout`` and ``rollback``, over a ledger's database."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dags import steps
from dags.holdout import holdouts as holdouts_of
from dags.local import registry
from dags.settings import load
from registry.errors import HoldoutMissing
from registry.holdouts import Frozen, Holdouts
from tests.fakes.versions import MemoryVersions
from tests.registry.houses import House, prepared


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Holdouts:
    monkeypatch.setenv("SENSORLOOP_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mlflow").mkdir()
    return holdouts_of(load())


def test_who_is_held_out_and_how_often_that_decided(kept: Holdouts, capsys: pytest.CaptureFixture[str]) -> None:
    registry.holdouts()
    said = capsys.readouterr()
    assert "'sensorloop rescore' freezes one" in said.err
    assert json.loads(said.out) == {"holdouts": []}

    frozen = kept.freeze(
        Frozen(cohort="target", subjects=("ana", "ben"), labels={"w1": "Walk", "w2": "Bus"}, lake_version="17")
    )
    for candidate in ("k1:filterloss", "k2:filterloss"):
        kept.ask(frozen, candidate)
    registry.holdouts()
    said = capsys.readouterr()
    assert said.err.startswith(f"target 1: {frozen.name}, 2 windows of ana, ben, frozen by ")
    assert said.err.endswith(" UTC from lake version 17; 2 candidates judged.\n")
    (listed,) = json.loads(said.out)["holdouts"]
    assert (listed["name"], listed["people"], listed["labels"], listed["asked"]) == (frozen.name, 2, 2, 2)
    assert datetime.fromisoformat(listed["at"]).tzinfo == UTC

    registry.renew_holdout(cohort="target", why="Half of the buses were trains.", redraw=False)
    said = capsys.readouterr()
    assert f"Holdout {frozen.name} is retired" in said.err
    assert "freezes one of the same people (ana, ben)" in said.err
    assert json.loads(said.out) == {"retired": frozen.name, "redraw": False}
    registry.holdouts()
    assert "Retired: Half of the buses were trains." in capsys.readouterr().err


def test_nothing_to_renew(kept: Holdouts) -> None:
    with pytest.raises(HoldoutMissing, match="cohort city has no holdout yet"):
        registry.renew_holdout(cohort="city", why="", redraw=True)


def test_a_rollback_from_a_champion_can_be_typed_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    memory = MemoryVersions()
    house = prepared(House(memory, f"sqlite:///{tmp_path / 'ledger.db'}", memory.register), 3)
    monkeypatch.setattr(steps, "promotions", lambda *_: house.promotions())
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        registry.rollback(expected="3")
        assert json.loads(capsys.readouterr().out) == {"champion": "2", "entry": 4}
    registry.rollback()
    assert json.loads(capsys.readouterr().out) == {"champion": "1", "entry": 5}
