"""What ``sensorloop experiment`` has in MLflow, on a database of MLflow's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from dags.local.arms_runs import ArmsRuns
from dags.local.experiment import run
from registry import connection
from registry.connection import connect
from registry.errors import MlflowUnavailable
from registry.tracker import MlflowRunLog
from tests.dags.local.pairs import NO_MLFLOW, settings
from tests.fixtures.tracking import own_tracking_uri
from tests.training.lakes import of_people, publish
from tests.training.made import windows


class House:
    """A lake, an MLflow, and the command."""

    def __init__(self, home: Path, database: str) -> None:
        self.home, self.client = home, connect(database)
        self._with = f'[registry]\ntracking_uri = "{database}"\nledger_url = "{database}"\n'
        self.client.create_experiment("scene-recogniser-arms", artifact_location=(home / "artifacts").as_uri())
        for cohort, seed in (("source", 0), ("target", 3)):
            publish(home / "both", of_people(cohort, windows(people=6, each=8, seed=seed)), cohort=cohort)

    def go(self, arms: str, *, mlflow: bool = True, more: str = "", threads: int = 1) -> dict[str, Any]:
        lake, found = str(self.home / "both"), settings(self.home, more + (self._with if mlflow else NO_MLFLOW))
        return run(
            replace(found, finetune=replace(found.finetune, threads=threads)), source=lake, target=lake, cohorts=("source", "target"),
            name="made", arms=arms, regimes="hard", seeds=1, minutes=None,
        )  # fmt: skip

    def below(self, run_id: str) -> dict[str, Run]:
        experiment = self.client.get_run(run_id).info.experiment_id
        found = self.client.search_runs([experiment], f"tags.mlflow.parentRunId = '{run_id}'")
        assert len({each.info.run_name for each in found}) == len(found), "a cell is one run"
        return {each.data.params.get("arm", ""): each for each in found}


@pytest.fixture
def house(tmp_path: Path, database: str) -> Iterator[House]:
    with own_tracking_uri():
        yield House(tmp_path, database)


def test_a_pair_is_a_run_with_the_table_and_each_cell_one_below_it(
    house: House, capsys: pytest.CaptureFixture[str]
) -> None:
    assert house.go("original,free-plain", mlflow=False)["mlflow_run_id"] == ""
    said = capsys.readouterr().err
    assert said.count("MLflow does not answer at http://127.0.0.1:1") == 1
    assert "goes on without MLflow" in said
    first, again = (house.go("original,free-plain,oracle")["mlflow_run_id"] for _ in range(2))
    assert first == again, "another call of the same pair goes on in its run"
    above, below = house.client.get_run(first), house.below(first)
    assert {"recipe", "quality.floor", "finetune.batch"} <= set(above.data.params)
    assert set(below) == {"original", "free-plain", "oracle"}, "those that were trained before it answered, too"
    assert {each.info.status for each in (above, *below.values())} == {"FINISHED"}
    assert {each.tags[0].value for each in above.inputs.dataset_inputs} == {"source", "target"}
    files = {file.path for file in house.client.list_artifacts(first)}
    assert files == {"transfer.json", "transfer.md", "hard.png", "hard-recall.png"}
    assert "| oracle |" in above.data.tags["mlflow.note.content"]
    assert f"artifact?path=hard.png&run_uuid={first}" in above.data.tags["mlflow.note.content"]
    for arm, each in below.items():
        assert each.data.metrics["target/macro_f1"] == above.data.metrics[f"hard/{arm}/macro_f1"]
    points = house.client.get_metric_history(below["free-plain"].info.run_id, "train/loss")
    assert [point.step for point in points] == [1], "its curve"
    assert house.go("original", threads=2)["mlflow_run_id"] == first, "on another machine it is the same"
    other = house.go("original", more="[quality]\nfloor = 0.05\n")["mlflow_run_id"]
    assert other != first, "with other settings it is another comparison"
    assert set(house.below(other)) == {"original"}


def test_an_mlflow_that_dies_stops_nothing_and_what_it_missed_comes_later(
    house: House, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics, told = MlflowRunLog.metrics, list[str]()

    def dies(self: MlflowRunLog, values: Any, **how: Any) -> None:
        told.append(self.run_id)
        if len(set(told)) > 1:
            msg = "MLflow could not log metrics: no answer"
            raise MlflowUnavailable(msg)
        metrics(self, values, **how)

    monkeypatch.setattr(MlflowRunLog, "metrics", dies)
    done = house.go("original,free-linear-probe,oracle")
    assert done["cells"] == 3
    assert Path(done["table"]).exists()
    assert capsys.readouterr().err.count("goes on without MLflow") == 1
    assert len(set(told)) == 2, "nothing more is tried"
    monkeypatch.setattr(MlflowRunLog, "metrics", metrics)
    below = house.below(house.go("original,free-linear-probe,oracle")["mlflow_run_id"])
    assert {arm: each.info.status for arm, each in below.items()} == dict.fromkeys(
        ("original", "free-linear-probe", "oracle"), "FINISHED"
    )


def test_a_server_that_goes_away_between_two_cells_is_not_waited_for(
    house: House, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def gone(tracking_uri: str) -> None:
        msg = f"MLflow does not answer at {tracking_uri}"
        raise MlflowUnavailable(msg)

    cell = ArmsRuns.cell

    def told(self: ArmsRuns, of: Mapping[str, Any]) -> None:
        cell(self, of)
        monkeypatch.setattr(connection, "check_answers", gone)

    monkeypatch.setattr(ArmsRuns, "cell", told)
    assert house.go("original,free-linear-probe,oracle")["cells"] == 3
    assert capsys.readouterr().err.count("goes on without MLflow") == 1


def test_artifacts_whose_place_this_machine_may_not_write_to_stop_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """MLflow's client writes artifacts itself, and a server may name a folder of its own for them."""

    def refused(self: MlflowRunLog, path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(MlflowRunLog, "file", refused)
    done = house.go("original")
    assert Path(done["table"]).exists()
    said = capsys.readouterr().err
    assert "could not be logged to MLflow: PermissionError: [Errno 13]" in said
    assert said.count("goes on without MLflow") == 1


def test_an_experiment_in_the_trash_stops_nothing(house: House, capsys: pytest.CaptureFixture[str]) -> None:
    client: MlflowClient = house.client
    experiment = client.get_experiment_by_name("scene-recogniser-arms")
    assert experiment
    client.delete_experiment(experiment.experiment_id)
    assert house.go("original")["cells"] == 1
    assert "goes on without MLflow" in capsys.readouterr().err
