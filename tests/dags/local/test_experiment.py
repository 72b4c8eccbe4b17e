from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dags import commands
from dags.errors import CommandRefused
from dags.local.experiment import pair_of, run, through_kafka
from dags.settings import Settings, load
from streaming.fleet import simulate, target_fleet
from streaming.lake import scan_windows
from tests.training.lakes import CUT, SETTINGS, of_people, publish
from tests.training.made import SMALL, windows
from training import original
from training.arm import EVERY
from training.errors import DataError, SettingsError, TooFewLabels, TooFewSubjects
from training.experiment import Experiment
from training.settings import OriginalSettings

NO_MLFLOW = '[registry]\ntracking_uri = "http://127.0.0.1:1"\nledger_url = "sqlite://"\n'
"""Nobody listens there: an MLflow that somebody has started is none of these tests' business."""


def settings(home: Path, more: str = NO_MLFLOW) -> Settings:
    (home / "sensorloop.toml").write_text(SETTINGS + more)
    found = load({"SENSORLOOP_HOME": str(home), "SENSORLOOP_CONFIG": str(home / "sensorloop.toml")})
    original = OriginalSettings(architecture="resnet18", epochs=1, threads=1)
    finetune = replace(found.finetune, threads=1, epochs=1, head_pulls=(1e-3,))
    return replace(found, original=original, finetune=finetune, spectrogram=SMALL)


@pytest.fixture
def lake(tmp_path: Path) -> str:
    made = windows(people=6, each=8)
    publish(tmp_path / "both", of_people("source", made), cohort="source")
    publish(tmp_path / "both", of_people("target", windows(people=6, each=8, seed=3)), cohort="target")
    return str(tmp_path / "both")


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
    with pytest.raises(DataError, match="nowhere is neither a lake nor a folder of recordings"):
        run(found, **wanted | {"source": str(recordings), "target": str(tmp_path / "nowhere")})  # type: ignore[arg-type]
    (tmp_path / "lake").symlink_to(lake)
    with pytest.raises(DataError, match=rf"has a lake: did you mean {tmp_path}/lake\?"):
        run(found, **wanted | {"source": str(tmp_path)})  # type: ignore[arg-type]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="neither a lake nor a folder of recordings"):
        run(found, **wanted | {"source": str(tmp_path / "empty")})  # type: ignore[arg-type]


def test_a_source_and_a_target_with_nothing_in_common_are_told_so(tmp_path: Path) -> None:
    publish(tmp_path / "a", of_people("a", windows(people=3, counts=(8, 0, 0))), cohort="source")
    publish(tmp_path / "b", of_people("b", windows(people=3, counts=(0, 8, 0))), cohort="target")
    with pytest.raises(DataError, match=r"share 0 labelled scenes \(none\); at least 2"):
        run(
            settings(tmp_path), source=str(tmp_path / "a"), target=str(tmp_path / "b"), cohorts=("source", "target"), name="n",
            arms="all", regimes="hard", seeds=1, minutes=None,
        )  # fmt: skip


def test_too_few_people_are_said_of_the_source_or_the_target_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(original, "train_original", lambda *_, **__: pytest.fail("trained"))
    publish(tmp_path / "both", of_people("a", windows(people=3, each=8)), cohort="source")
    publish(tmp_path / "both", of_people("b", windows(people=2, each=8)), cohort="target")
    lake = str(tmp_path / "both")
    found, cohorts = settings(tmp_path), ("source", "target")
    with pytest.raises(TooFewSubjects, match=r"^The target: Too few people: 48 labelled windows"):
        pair_of(found, tmp_path / "experiments", (lake, lake), cohorts, "n")
    slow = tmp_path / "slow"
    publish(
        slow,
        of_people("c", replace(windows(people=4, each=8), rate_hz=25.0)),
        cut=replace(CUT, rate_hz=25.0, length=2 * CUT.length),
    )
    with pytest.raises(
        DataError, match=r"cut differently \(100 samples at 50 Hz and 100 samples at 25 Hz\): ingest both"
    ):
        pair_of(found, tmp_path / "experiments", (lake, str(slow)), cohorts, "n")
    many = replace(found, data=replace(found.data, min_labelled=1000))
    with pytest.raises(TooFewLabels, match=r"^The source: Too few labels: 72 labelled windows"):
        pair_of(many, tmp_path / "experiments", (lake, lake), cohorts, "n")


def test_people_whom_an_installation_holds_out_are_not_those_of_an_experiment(lake: str, tmp_path: Path) -> None:
    """The names of [data] holdout_subjects are of its own target, who may not be among these."""
    found = settings(tmp_path)
    done = run(
        replace(found, data=replace(found.data, holdout_subjects=("anna",))), source=lake, target=lake,
        cohorts=("source", "target"), name="n", arms="original", regimes="hard", seeds=1, minutes=None,
    )  # fmt: skip
    assert done["cells"] == 1


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
