"""Runs in a real MLflow store: what ends how, what is found again, and that a resumed run has one point a step."""

from __future__ import annotations

import inspect
import json
import math
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType

from registry.connection import connect
from registry.errors import MlflowUnavailable, TrackingError
from registry.tracker import MlflowRunLog, MlflowTracker
from training.tracking import RunLog, Tracker


@pytest.fixture
def tracker(client: MlflowClient) -> MlflowTracker:
    return MlflowTracker(client, "retrain", tags={"python": "3.11"})


def runs(client: MlflowClient) -> list[Run]:
    experiment = client.get_experiment_by_name("retrain")
    assert experiment
    return list(client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"]))


def artifacts(client: MlflowClient, run_id: str, folder: str | None = None) -> set[str]:
    return {info.path for info in client.list_artifacts(run_id, folder)}


def test_everything_a_run_says_is_there(client: MlflowClient, tracker: MlflowTracker, tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"\x00\x01")
    with tracker.run("filterloss", tags={"policy": "filterloss"}) as log:
        log.params({"epochs": 8, "optimizer": {"name": "adam", "rate": 1e-3}})
        for epoch in range(3):
            log.metrics({"train/loss": 1.0 / (epoch + 1), "target/accuracy": 0.5 + epoch / 10}, step=epoch)
        log.metrics(
            {
                "target/recovery_ratio": 0.93,
                "recall/Walk": math.nan,
                "recall/Stairs, up (à pied)": 0.5,
                "recall/..": 0.1,
            }
        )
        log.figure(Figure(), "pictures/confusion")
        log.text("Ehrlich – 0.93", "notes")
        log.json({"scores": [1.0, math.nan], "path": Path("a")}, "evaluation")
        log.file(tmp_path / "weights.bin", "checkpoint")
        log.dataset("windows", version=17, digest="d" * 64, windows=212, context="training")
        log.describe("**Fine-tuned** on 212 windows.")
    (run,) = runs(client)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "filterloss"
    assert run.data.params == {"epochs": "8", "optimizer.name": "adam", "optimizer.rate": "0.001"}
    assert run.data.metrics["target/accuracy"] == pytest.approx(0.7)
    assert run.data.metrics["target/recovery_ratio"] == 0.93
    assert math.isnan(run.data.metrics["recall/Walk"])
    assert run.data.metrics["recall/Stairs_ up _à pied_"] == 0.5, "a scene is called as people call it"
    assert run.data.metrics["recall/__"] == 0.1
    assert [point.step for point in client.get_metric_history(run.info.run_id, "train/loss")] == [0, 1, 2]
    assert run.data.tags["policy"] == "filterloss"
    assert run.data.tags["python"] == "3.11"
    assert run.data.tags["mlflow.note.content"].startswith("**Fine")
    assert artifacts(client, run.info.run_id) == {"pictures", "notes.txt", "evaluation.json", "checkpoint"}
    assert artifacts(client, run.info.run_id, "pictures") == {"pictures/confusion.png"}
    there = Path(client.download_artifacts(run.info.run_id, "evaluation.json"))
    assert json.loads(there.read_text(encoding="utf-8")) == {"scores": [1.0, None], "path": "a"}
    (seen,) = run.inputs.dataset_inputs
    assert (seen.dataset.name, seen.dataset.digest) == ("windows@17", "d" * 36)
    assert json.loads(seen.dataset.source) == {"delta_table_name": "windows", "delta_table_version": 17}
    assert json.loads(seen.dataset.profile) == {"num_rows": 212}
    assert [(tag.key, tag.value) for tag in seen.tags] == [("mlflow.data.context", "training")]


def test_more_than_mlflow_takes_at_once(client: MlflowClient, tracker: MlflowTracker) -> None:
    with tracker.run("big") as log:
        log.params({f"p{number}": number for number in range(250)})
        log.tags({f"t{number}": str(number) for number in range(250)})
        log.metrics({f"m{number}": number for number in range(1200)})
    (run,) = runs(client)
    assert len(run.data.params) == 250
    assert len(run.data.metrics) == 1200
    assert run.data.tags["t249"] == "249"


@pytest.mark.parametrize(
    ("error", "status"),
    [(ValueError("no labels"), "FAILED"), (KeyboardInterrupt(), "KILLED"), (SystemExit(143), "KILLED")],
)
def test_how_a_run_ends(client: MlflowClient, tracker: MlflowTracker, error: BaseException, status: str) -> None:
    with pytest.raises(type(error)), tracker.run("arm"):
        raise error
    (run,) = runs(client)
    assert run.info.status == status
    assert run.data.tags["error"].startswith(type(error).__name__)


def test_a_failing_arm_is_below_its_parent(client: MlflowClient, tracker: MlflowTracker) -> None:
    with tracker.run("retrain") as parent:
        with pytest.raises(RuntimeError), tracker.run("plain", parent=parent):
            raise RuntimeError
        with tracker.run("filterloss", parent=parent):
            pass
    above, failed, fine = runs(client)
    assert [run.info.status for run in (above, failed, fine)] == ["FINISHED", "FAILED", "FINISHED"]
    assert {run.data.tags["mlflow.parentRunId"] for run in (failed, fine)} == {above.info.run_id}


def test_an_arm_saw_the_data_of_its_parent(client: MlflowClient, tracker: MlflowTracker) -> None:
    with tracker.run("retrain") as parent:
        parent.dataset("windows", version=17, digest="a", windows=200, context="training")
        parent.dataset("windows", version=17, digest="b", windows=90, context="holdout")
        for _ in range(2):  # resumed, it is still the same two
            with tracker.run("filterloss", parent=parent, tags={"run_key": "k"}):
                pass
    _, arm = runs(client)
    seen = {(each.dataset.name, each.dataset.digest, each.tags[0].value) for each in arm.inputs.dataset_inputs}
    assert seen == {("windows@17", "a", "training"), ("windows@17", "b", "holdout")}
    assert len(arm.inputs.dataset_inputs) == 2


def test_the_same_windows_at_another_version_of_the_lake(client: MlflowClient, tracker: MlflowTracker) -> None:
    for version in (17, 18):
        with tracker.run("retrain") as log:
            log.dataset("windows", version=version, digest="a", windows=200, context="training")
    versions = [json.loads(run.inputs.dataset_inputs[0].dataset.source)["delta_table_version"] for run in runs(client)]
    assert versions == [17, 18]


def test_the_same_windows_with_other_labels(client: MlflowClient, tracker: MlflowTracker) -> None:
    for said in (None, 0, 3):
        with tracker.run("retrain") as log:
            log.dataset("windows", version=17, labels_version=said, digest="a", windows=200, context="training")
    seen = [run.inputs.dataset_inputs[0].dataset for run in runs(client)]
    assert [each.name for each in seen] == ["windows@17", "windows@17 labels@0", "windows@17 labels@3"]
    assert [json.loads(each.source).get("labels_version") for each in seen] == [None, 0, 3]


def test_what_people_write_about_an_experiment_stays(client: MlflowClient) -> None:
    made = MlflowTracker(client, "noted", note="Ours.").experiment_id
    assert client.get_experiment(made).tags["mlflow.note.content"] == "Ours."
    client.set_experiment_tag(made, "mlflow.note.content", "Theirs.")
    MlflowTracker(client, "noted", note="Ours.")
    assert client.get_experiment(made).tags["mlflow.note.content"] == "Theirs."


def test_a_resumed_training_goes_on_in_its_own_run(client: MlflowClient, tracker: MlflowTracker) -> None:
    key = {"run_key": "lake17-it's"}

    def interrupted() -> None:
        with tracker.run("filterloss", tags=key) as log:
            assert not log.resumed
            log.params({"epochs": 4, "machine": "a"})
            log.metrics({"loss": 4.0}, step=0)
            log.metrics({"loss": 3.0}, step=1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with tracker.run("filterloss", tags={**key, "attempt": "2"}) as log:
        assert log.resumed
        assert client.get_run(log.run_id).info.status == "RUNNING"
        log.params({"epochs": 4, "machine": "b", "new": True})
        log.metrics({"loss": 3.0}, step=1)  # from the checkpoint before, so this epoch is trained again
        log.metrics({"loss": 2.0, "accuracy": 0.9}, step=2)
        log.metrics({"final": 0.9})
    (run,) = runs(client)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"epochs": "4", "machine": "a", "new": "True"}
    assert run.data.tags["resumed.machine"] == "b"
    assert run.data.tags["attempt"] == "2"
    history = client.get_metric_history(run.info.run_id, "loss")
    assert sorted((point.step, point.value) for point in history) == [(0, 4.0), (1, 3.0), (2, 2.0)]


def test_a_number_measured_again_is_the_newer_one(client: MlflowClient, tracker: MlflowTracker) -> None:
    for accuracy in (0.7, 0.6):
        with tracker.run("evaluation", tags={"run_key": "k"}) as log:
            log.metrics({"target/accuracy": accuracy})
    (run,) = runs(client)
    assert run.data.metrics["target/accuracy"] == 0.6


def test_another_name_key_or_parent_is_another_run(client: MlflowClient, tracker: MlflowTracker) -> None:
    found: set[str] = set()
    with tracker.run("parent") as parent:
        for name, key, above in (
            ("arm", "k1", None),
            ("arm", "k2", None),
            ("other", "k1", None),
            ("arm", "k1", parent),
            ("arm", "k1", None),
            ("arm", "k1", parent),
        ):
            with tracker.run(name, parent=above, tags={"run_key": key}) as log:
                found.add(log.run_id)
    assert len(found) == 4
    with tracker.run("parent") as again:
        assert again.run_id != parent.run_id  # without a key, every run is a new one


def test_the_experiment_is_made_once(client: MlflowClient, tracker: MlflowTracker) -> None:
    MlflowTracker(client, "retrain")
    names = [experiment.name for experiment in client.search_experiments(view_type=ViewType.ALL)]
    assert sorted(names) == ["Default", "retrain"]


def test_an_experiment_in_the_trash_is_said_to_be_there(client: MlflowClient, tracker: MlflowTracker) -> None:
    experiment = client.get_experiment_by_name("retrain")
    assert experiment
    client.delete_experiment(experiment.experiment_id)
    with pytest.raises(TrackingError, match="in the trash"):
        MlflowTracker(client, "retrain")


def test_a_name_that_mlflow_refuses(tracker: MlflowTracker) -> None:
    with tracker.run("arm") as log, pytest.raises(TrackingError, match="log metrics"):
        log.metrics({"recall of " + 300 * "x": 1.0})


def test_the_first_error_is_the_one_that_is_heard(client: MlflowClient, tracker: MlflowTracker) -> None:
    """MLflow forgot the run meanwhile: the training's own error must not be hidden by that."""

    def training() -> None:
        with tracker.run("arm") as log:
            client.delete_run(log.run_id)
            float("no labels")

    with pytest.raises(ValueError, match="no labels"):
        training()


def test_it_has_the_shape_that_training_expects() -> None:
    for protocol, ours in ((Tracker, MlflowTracker), (RunLog, MlflowRunLog)):
        for name, expected in inspect.getmembers(protocol, inspect.isfunction):
            if name.startswith("_"):
                continue
            want = inspect.signature(expected).parameters
            have = inspect.signature(getattr(ours, name)).parameters
            assert [(p.name, p.kind, p.default) for p in have.values()] == [
                (p.name, p.kind, p.default) for p in want.values()
            ], name


def test_nobody_at_the_address() -> None:
    with pytest.raises(MlflowUnavailable, match=r"127\.0\.0\.1:9.*tracking_uri"):
        connect("http://127.0.0.1:9")
