"""The run of a DAG run, with those of its cohorts below it: over a real lake, with real (small) networks and MLflow's real stores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer

from dags import dag_run, judging, retraining, runs
from dags.local import tracking
from registry.dag_runs import DagRun
from registry.errors import TrackingError
from registry.tracker import MlflowRunLog
from tests.dags.places import Place, copy
from tests.training.lakes import of_people
from tests.training.made import windows
from training.tracking import no_progress

COHORTS = ("target", "town")
PAGE = "http://airflow/dags/retrain/runs/monday"
SCENES = ("Run", "Still", "Walk")


@pytest.fixture(scope="module")
def place(trained: tuple[Place, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Place:
    """An installation of this module's own, with the windows of two cohorts at one version of the lake."""
    made = copy(trained[0], tmp_path_factory.mktemp("dag-runs") / "home")
    made.publish(of_people("town", windows(people=5, each=5, seed=5)), cohort="town")
    return made


@pytest.fixture(scope="module")
def keys(place: Place) -> dict[str, str]:
    """The cohorts' run keys: scored, and not trained."""
    return {cohort: scored(place, cohort) for cohort in COHORTS}


def newest(place: Place) -> int:
    from streaming.lake import table_version  # noqa: PLC0415

    return table_version(place.settings().lake)


def scored(place: Place, cohort: str, *, seed: int = 21) -> str:
    key: str = retraining.rescore(
        place.settings(), cohort=cohort, lake_version=newest(place), labels_version=-1, seed=seed, progress=no_progress
    )["run_key"]
    return key


def opened(place: Place, name: str, *cohorts: str, url: str = "") -> str:
    """MLflow's id of the run of a DAG run."""
    run_id: str = dag_run.open_run(
        place.settings(), named(name), cohorts=cohorts or COHORTS, lake_version=newest(place), labels_version=-1,
        policy="plain", seed=21, url=url,
    )["mlflow_run_id"]  # fmt: skip
    return run_id


def closed(place: Place, name: str, *cohorts: str, failed: bool = False) -> dict[str, Any] | None:
    return dag_run.close_run(place.settings(), named(name), cohorts=cohorts or COHORTS, failed=failed)


def named(name: str) -> DagRun:
    return DagRun(dag_id="retrain", run_id=name)


def finetune(place: Place, run_key: str, *, below: str = "") -> str:
    """MLflow's id of the run of the run key."""
    run_id: str = retraining.finetune(
        place.settings(), run_key=run_key, arms=("plain",), below=below, progress=no_progress
    )["mlflow_run_id"]
    return run_id


def all_runs(place: Place) -> dict[str, Any]:
    client = place.client()
    experiment = client.get_experiment_by_name(place.settings().registry.retrain_experiment)
    return {run.info.run_id: run for run in client.search_runs([experiment.experiment_id])}


def above(run: Any) -> str | None:
    parent: str | None = run.data.tags.get("mlflow.parentRunId")
    return parent


def table(place: Place, run_id: str) -> tuple[str, dict[str, Any]]:
    """A run's description, and its ``runs.json`` by cohort."""
    client = place.client()
    text = client.get_run(run_id).data.tags["mlflow.note.content"].replace("&emsp;", "")
    found = json.loads(Path(client.download_artifacts(run_id, "runs.json")).read_text(encoding="utf-8"))
    return text, {each["cohort"]: each for each in found["cohorts"]}


@pytest.fixture(scope="module")
def monday(place: Place, keys: dict[str, str]) -> dict[str, str]:
    """A DAG run that has trained both cohorts, promoted one and has ended: ids of its run and of the cohorts'."""
    parent = opened(place, "monday", url=PAGE)
    trained = {cohort: finetune(place, keys[cohort], below=parent) for cohort in COHORTS}
    judging.promote(place.settings(), run_key=keys["target"], arm="plain")
    assert place.client().get_run(parent).info.status == "RUNNING", "until it is closed"
    assert closed(place, "monday") is not None
    return {"": parent, **trained}


def test_arms_are_below_cohorts_and_those_below_the_dag_run(
    place: Place, keys: dict[str, str], monday: dict[str, str]
) -> None:
    found = all_runs(place)
    parent = found[monday[""]]
    assert (parent.info.run_name, parent.info.status, above(parent)) == ("retrain", "FINISHED", None)
    for cohort in COHORTS:
        run = found[monday[cohort]]
        assert (run.info.run_name, above(run), run.data.tags["run_key"]) == (cohort, monday[""], keys[cohort])
        arms = {each.info.run_name for each in found.values() if above(each) == run.info.run_id}
        assert arms == {"original", "plain"}


def test_it_says_what_it_was_opened_for(place: Place, keys: dict[str, str], monday: dict[str, str]) -> None:
    run = place.client().get_run(monday[""])
    tags, params = run.data.tags, run.data.params
    assert {name: tags[name] for name in ("dag_run", "dag_id", "dag_run_id", "airflow_url", "policy")} == {
        "dag_run": "retrain/monday", "dag_id": "retrain", "dag_run_id": "monday", "airflow_url": PAGE, "policy": "plain",
    }  # fmt: skip
    assert tags["lake_version"] == params["lake_version"] == str(newest(place))
    assert {cohort: tags[f"run_key.{cohort}"] for cohort in COHORTS} == keys
    assert (params["seed"], params["finetune.seed"], params["cohorts"]) == ("21", "21", "2")
    assert tags["settings_digest"] == place.client().get_run(monday["town"]).data.tags["settings_digest"]
    assert len(tags["mlflow.source.git.commit"]) == 40


def test_it_has_the_data_sets_and_the_numbers_of_its_cohorts(
    place: Place, keys: dict[str, str], monday: dict[str, str]
) -> None:
    client = place.client()

    def data(run_id: str) -> set[tuple[str, str, str]]:
        inputs = client.get_run(run_id).inputs.dataset_inputs
        return {(each.dataset.name, each.dataset.digest, each.tags[0].value) for each in inputs}

    assert data(monday[""]) == data(monday["target"]) | data(monday["town"])
    assert {name.partition(" ")[0] for name, _, _ in data(monday[""])} == {f"windows@{newest(place)}"}
    assert len(data(monday[""])) == 4
    metrics = client.get_run(monday[""]).data.metrics
    for cohort in COHORTS:
        plain = runs.results(place.settings().runs / keys[cohort])["plain"]
        for name in ("recovery_ratio", "accuracy", "macro_f1"):
            assert metrics[f"{cohort}/{name}"] == pytest.approx(plain[name])
    assert metrics["target/passed"] == 1.0
    assert "town/passed" not in metrics, "nobody has judged it"


def test_its_page_is_a_table_of_what_came_of_each_cohort(
    place: Place, keys: dict[str, str], monday: dict[str, str]
) -> None:
    text, cohorts = table(place, monday[""])
    assert f"DAG `retrain`, run [monday]({PAGE}), has ended well; lake version {newest(place)}." in text
    rows = {line.split("]")[0].removeprefix("| ["): line for line in text.splitlines() if line.startswith("| [")}
    assert set(rows) == set(COHORTS)
    results = runs.results(place.settings().runs / keys["target"])
    cells = [cell.strip() for cell in rows["target"].strip("|").split("|")]
    assert cells[0].startswith(
        f"[target](#/experiments/{all_runs(place)[monday['']].info.experiment_id}/runs/{monday['target']}?"
    )
    assert cells[1:3] == [f"{results[arm]['recovery_ratio']:.3f}" for arm in ("original", "plain")]
    assert cells[3:] == [f"plain passed, version {cohorts['target']['version']}", "here"]
    assert rows["town"].strip("| ").endswith("not judged | here")
    assert cohorts["target"]["reasons"]
    assert all(f"- target: {reason}" in text for reason in cohorts["target"]["reasons"])
    assert {cohort: (each["run_key"], each["run_id"]) for cohort, each in cohorts.items()} == {
        cohort: (keys[cohort], monday[cohort]) for cohort in COHORTS
    }


def test_what_was_trained_before_is_neither_trained_again_nor_moved(
    place: Place, keys: dict[str, str], monday: dict[str, str]
) -> None:
    before = all_runs(place)
    parent = opened(place, "tuesday")
    assert finetune(place, keys["town"], below=parent) == monday["town"]
    closed(place, "tuesday", "town")
    after = all_runs(place)
    assert set(after) == {*before, parent}
    assert {run_id: above(run) for run_id, run in after.items() if run_id != parent} == {
        run_id: above(run) for run_id, run in before.items()
    }
    assert after[monday["town"]].data.tags["dag_run"] == "retrain/monday"
    text, cohorts = table(place, parent)
    assert cohorts["town"]["trained"] == "retrain/monday"
    assert f"/runs/{monday['town']}?" in text
    assert "| retrain/monday |" in text
    assert after[parent].data.tags["run_key.town"] == keys["town"]
    assert "town/recovery_ratio" in after[parent].data.metrics


def test_what_was_trained_by_hand_stays_where_it_is(place: Place) -> None:
    key = scored(place, "town", seed=22)
    by_hand = finetune(place, key)
    parent = opened(place, "wednesday", "town")
    assert finetune(place, key, below=parent) == by_hand
    closed(place, "wednesday", "town")
    run = all_runs(place)[by_hand]
    assert (run.info.run_name, above(run), run.data.tags.get("dag_run")) == ("town", None, None)
    assert table(place, parent)[1]["town"]["trained"] == "by hand"


def test_another_arms_verdict_is_not_its_own(place: Place) -> None:
    """The run key may be that of a run by hand, or of a DAG run with another policy."""
    key = scored(place, "town", seed=22)
    parent = opened(place, "sunday", "town")
    finetune(place, key, below=parent)
    folder = place.settings().runs / key
    runs.judge(folder, arm="filterloss", passed=True, version="9", reasons=["Theirs."])
    closed(place, "sunday", "town")
    seen = table(place, parent)[1]["town"]
    assert (seen["outcome"], seen["passed"], seen["reasons"]) == ("not judged", None, [])
    assert "town/passed" not in place.client().get_run(parent).data.metrics
    runs.judge(folder, arm="plain", passed=False, version="8", reasons=["Ours."])
    runs.judge(folder, arm="filterloss", passed=True, version="9", reasons=["Theirs."])
    closed(place, "sunday", "town")
    seen = table(place, parent)[1]["town"]
    assert (seen["outcome"], seen["passed"], seen["reasons"]) == ("plain refused, version 8", False, ["Ours."])
    metrics = place.client().get_run(parent).data.metrics
    assert metrics["town/passed"] == 0.0
    assert metrics["town/accuracy"] == pytest.approx(runs.results(folder)["plain"]["accuracy"])


def test_by_hand_what_a_dag_run_has_trained_is_found_again(
    place: Place, keys: dict[str, str], monday: dict[str, str]
) -> None:
    before = set(all_runs(place))
    assert finetune(place, keys["town"]) == monday["town"]
    assert set(all_runs(place)) == before
    assert above(all_runs(place)[monday["town"]]) == monday[""]


def test_a_dag_run_that_failed_and_is_cleared_goes_on_in_its_own_run(place: Place, keys: dict[str, str]) -> None:
    parent = opened(place, "thursday")
    closed(place, "thursday", failed=True)
    client = place.client()
    assert client.get_run(parent).info.status == "FAILED"
    text, cohorts = table(place, parent)
    assert "has failed" in text
    assert {each["outcome"] for each in cohorts.values()} == {"not trained"}
    assert not client.get_run(parent).data.metrics
    finetune(place, keys["target"], below=parent)
    assert client.get_run(parent).info.status == "RUNNING", "whichever of its tasks was cleared"
    closed(place, "thursday", failed=True)
    judging.gate(place.settings(), run_key=keys["target"], arm="plain", below=parent)
    assert client.get_run(parent).info.status == "RUNNING"
    closed(place, "thursday", failed=True)
    assert opened(place, "thursday") == parent
    assert client.get_run(parent).info.status == "RUNNING"
    assert "is under way" in client.get_run(parent).data.tags["mlflow.note.content"]
    closed(place, "thursday")
    assert client.get_run(parent).info.status == "FINISHED"
    text, cohorts = table(place, parent)
    assert "has ended well" in text
    assert (cohorts["target"]["run_key"], cohorts["town"]["outcome"]) == (keys["target"], "not trained")


def test_one_that_was_killed_while_it_was_opened_is_made_whole(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: Any) -> None:
        raise SystemExit

    monkeypatch.setattr(MlflowRunLog, "params", die)
    with pytest.raises(SystemExit):
        opened(place, "friday")
    monkeypatch.undo()
    run = place.client().get_run(opened(place, "friday"))
    assert run.data.params["lake_version"] == str(newest(place))
    assert [each.info.run_id for each in all_runs(place).values() if each.data.tags.get("dag_run_id") == "friday"] == [
        run.info.run_id
    ]


def test_what_somebody_has_deleted_in_mlflow(
    place: Place, keys: dict[str, str], monday: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = opened(place, "saturday")
    place.client().delete_run(parent)
    with pytest.raises(TrackingError, match=rf"below run {parent}: somebody has deleted it.*Clear .*'open_run'"):
        finetune(place, keys["target"], below=parent)
    judging.gate(place.settings(), run_key=keys["target"], arm="plain", below=parent)
    assert closed(place, "saturday") is None
    monkeypatch.setenv("SENSORLOOP_HOME", str(place.home))
    monkeypatch.setenv("SENSORLOOP_CONFIG", str(place.home / "sensorloop.toml"))
    with pytest.raises(typer.Exit) as ended:
        tracking.close("retrain", "saturday", list(COHORTS), tracking.Ended.SUCCESS)
    assert ended.value.exit_code == 99
    assert parent not in all_runs(place)
    assert opened(place, "saturday") != parent


@pytest.mark.parametrize(("name", "says"), [("town", "it is no DAG run's"), ("", "MLflow has no such run")])
def test_what_is_no_dag_runs_run_has_nothing_below_it(
    place: Place, keys: dict[str, str], monday: dict[str, str], name: str, says: str
) -> None:
    with pytest.raises(TrackingError, match=says):
        finetune(place, keys["target"], below=monday[name] if name else "0" * 32)
