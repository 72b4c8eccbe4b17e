from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dags.local.experiment import run
from training.arm import EVERY
from training.errors import DataError, SettingsError
from training.experiment import Experiment

from .pairs import both, settings


@pytest.fixture
def lake(tmp_path: Path) -> str:
    return both(tmp_path / "both")


def test_a_table_pictures_and_cells_that_are_not_run_twice(
    lake: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = settings(tmp_path)
    arms = "original,free-linear-probe,filterloss-per_sample,oracle"

    def go(seeds: int) -> dict[str, object]:
        return run(
            found, source=lake, target=lake, cohorts=("source", "target"), name="made", arms=arms, regimes="hard", seeds=seeds,
            minutes=None,
        )  # fmt: skip

    done = go(1)
    assert "labels to learn from" in capsys.readouterr().err
    assert (done["cells"], done["wanted"]) == (4, 4)
    summary = json.loads(Path(str(done["json"])).read_text())
    assert {row["arm"] for row in summary["rows"]} == set(arms.split(","))
    assert set(summary["below_original"]) == {"filterloss-per_sample"}
    assert "| filterloss-per_sample |" in Path(str(done["table"])).read_text()
    pictures = [Path(file) for file in done["pictures"]]  # type: ignore[attr-defined]
    assert [file.name for file in pictures] == ["hard.png", "hard-recall.png"]
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in pictures)
    cells = {file: file.stat().st_mtime_ns for file in (tmp_path / "experiments" / "cells").iterdir()}
    originals = list((tmp_path / "experiments" / "originals").iterdir())
    again = go(2)
    assert again["cells"] == 8
    assert {file: file.stat().st_mtime_ns for file in cells} == cells, "trained again"
    assert list((tmp_path / "experiments" / "originals").iterdir()) == originals


def test_minutes_count_from_the_start(lake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_cells(self: Experiment, regimes: object, seeds: object, arms: object, **how: Any) -> Iterator[Any]:
        del self, regimes, seeds, arms
        assert how["enough"](), "to read the lake and to train the original took longer than a millisecond"
        return iter(())

    monkeypatch.setattr(Experiment, "run", no_cells)
    done = run(
        settings(tmp_path), source=lake, target=lake, cohorts=("source", "target"), name="made", arms="all",
        regimes="hard", seeds=1, minutes=1 / 60_000,
    )  # fmt: skip
    assert (done["cells"], done["wanted"]) == (0, len(EVERY))


def test_whoever_stops_it_is_told_that_it_goes_on(
    lake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: object, **__: object) -> Iterator[Any]:
        raise KeyboardInterrupt

    monkeypatch.setattr(Experiment, "run", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(
            settings(tmp_path), source=lake, target=lake, cohorts=("source", "target"), name="made", arms="original",
            regimes="hard", seeds=1, minutes=None,
        )  # fmt: skip
    assert "Stopped. What is done is kept: the same command goes on." in capsys.readouterr().err


def test_arms_may_be_named_by_a_pattern(lake: str, tmp_path: Path) -> None:
    wanted = {"source": lake, "target": lake, "cohorts": ("source", "target"), "name": "n", "seeds": 1, "minutes": 0.0}
    done = run(settings(tmp_path), **wanted, arms="stopped-*, original,stopped-plain", regimes="few*")  # type: ignore[arg-type]
    stopped = [name for name in EVERY if name.startswith("stopped-")]
    assert len(stopped) == 10
    assert (done["cells"], done["wanted"]) == (0, 2 * (1 + len(stopped)))
    with pytest.raises(SettingsError, match="no arm 'halted-\\*'; there are original"):
        run(settings(tmp_path), **wanted, arms="halted-*", regimes="hard")  # type: ignore[arg-type]


def test_what_is_asked_for_must_be_there(lake: str, tmp_path: Path) -> None:
    found = settings(tmp_path)
    wanted = {
        "source": lake, "target": lake, "cohorts": ("source", "target"), "name": "n", "arms": "all", "regimes": "hard",
        "seeds": 1, "minutes": None,
    }  # fmt: skip
    with pytest.raises(SettingsError, match="no arm 'magic'; there are original, free-plain"):
        run(found, **wanted | {"arms": "original,magic"})  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=r"no regime 'harder'\. Did you mean 'hard'\? There are every-label, few"):
        run(found, **wanted | {"regimes": "harder"})  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=r"no arm 'free-plian'\. Did you mean 'free-plain'\? There are original"):
        run(found, **wanted | {"arms": "free-plian"})  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="Did you mean 'free-plain'"):
        run(found, **wanted | {"arms": "plan"})  # type: ignore[arg-type]
    for name in ("../out", "a/b", ".hidden", ""):
        with pytest.raises(SettingsError, match="--name is also that of a folder"):
            run(found, **wanted | {"name": name})  # type: ignore[arg-type]
    recordings = tmp_path / "recordings"
    recordings.mkdir()
    (recordings / "a.parquet").touch()
    with pytest.raises(
        DataError, match="nowhere is neither a lake nor a folder of recordings: there is no such folder"
    ):
        run(found, **wanted | {"source": str(recordings), "target": str(tmp_path / "nowhere")})  # type: ignore[arg-type]
    with pytest.raises(DataError, match="neither a lake nor a folder of recordings: it is a file"):
        run(found, **wanted | {"source": str(recordings / "a.parquet")})  # type: ignore[arg-type]
    (tmp_path / "lake").symlink_to(lake)
    with pytest.raises(DataError, match=rf"has a lake: did you mean {tmp_path}/lake\?"):
        run(found, **wanted | {"source": str(tmp_path)})  # type: ignore[arg-type]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="neither a lake nor a folder of recordings"):
        run(found, **wanted | {"source": str(tmp_path / "empty")})  # type: ignore[arg-type]


def test_people_whom_an_installation_holds_out_are_not_those_of_an_experiment(lake: str, tmp_path: Path) -> None:
    """The names of [data] holdout_subjects are of its own target, who may not be among these."""
    found = settings(tmp_path)
    done = run(
        replace(found, data=replace(found.data, holdout_subjects=("anna",))), source=lake, target=lake,
        cohorts=("source", "target"), name="n", arms="original", regimes="hard", seeds=1, minutes=None,
    )  # fmt: skip
    assert done["cells"] == 1
