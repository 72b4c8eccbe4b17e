"""Commands as processes, over MLflow's real stores: told to stop, and only reading."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dags import steps
from registry.versions import Alias
from tests.dags.places import Place, make
from tests.fixtures.tracking import own_tracking_uri

ROOT = Path(__file__).parents[2]


@pytest.fixture
def place(tmp_path: Path, empty_database: Path) -> Iterator[Place]:
    with own_tracking_uri():
        yield make(tmp_path / "home", empty_database)


def start(place: Place, *arguments: str, **environ: str) -> subprocess.Popen[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("SENSORLOOP", "KAFKA"))}
    env |= {"SENSORLOOP_HOME": str(place.home), "SENSORLOOP_CONFIG": str(place.home / "sensorloop.toml")}
    return subprocess.Popen(
        (sys.executable, "-m", "sensorloop", *arguments), env={**env, "PYTHONPATH": str(ROOT), **environ},
        cwd=place.home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_sigterm_ends_the_run_in_mlflow_too(place: Place) -> None:
    """Nobody else would: it would be RUNNING for ever."""
    client, name = place.client(), place.settings().registry.original_experiment
    experiment = client.get_experiment_by_name(name).experiment_id
    with start(place, "train", "original", SENSORLOOP_ORIGINAL__EPOCHS="100000") as process:
        try:
            deadline = time.monotonic() + 120
            while not any("loss" in run.data.metrics for run in client.search_runs([experiment])):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.2)  # polling a real process
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 128 + signal.SIGTERM
        finally:
            process.kill()
    (run,) = client.search_runs([experiment])
    assert run.info.status == "KILLED"


def test_list_and_history_only_read_and_reconcile_enters(place: Place) -> None:
    store = steps.model_versions(place.settings(), place.client())
    client = place.client()
    run = client.create_run(client.get_experiment_by_name(place.settings().registry.original_experiment).experiment_id)
    model = client.create_logged_model(run.info.experiment_id, name="model", source_run_id=run.info.run_id)
    store.register(
        source=model.model_uri, model_id=model.model_id, run_id=run.info.run_id, description="A model.", tags={},
        alias=Alias.CHAMPION,
    )  # fmt: skip
    for command in ("list", "history"):
        with start(place, "registry", command) as process:
            _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
        assert (
            "The ledger's champion is no version, MLflow's is version 1. 'sensorloop registry reconcile' enters it"
            in said
        )
    assert steps.promotions(place.settings()).history() == ()
    with start(place, "registry", "reconcile") as process:
        answer, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    (entry,) = steps.promotions(place.settings()).history()
    assert (entry.action, entry.version) == ("manual", "1")
    assert json.loads(answer)["noticed"][0]["hash"] == entry.hash


def test_a_verified_ledger_says_what_was_proven(place: Place) -> None:
    with start(place, "registry", "verify") as process:
        answer, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert said.splitlines()[-1].startswith("The ledger is empty, and no version in MLflow says that it was entered")
    assert json.loads(answer) == {"problems": []}


def test_a_dag_run_that_is_opened_twice_at_once_has_one_run_which_ends_as_it_does(place: Place) -> None:
    named = ("--dag-id", "retrain", "--run-id", "manual__2026-11-25T00:00:00+00:00", "--cohort", "target")
    versions = ("--lake-version", "2", "--labels-version", "-1")
    with (
        start(place, "track", "open", *named, *versions) as one,
        start(place, "track", "open", *named, *versions) as two,
    ):
        answers = [process.communicate(timeout=120) for process in (one, two)]
    assert (one.returncode, two.returncode) == (0, 0), answers
    found = [json.loads(answer) for answer, _ in answers]
    assert found[0] == found[1]
    client = place.client()
    experiment = client.get_experiment_by_name(place.settings().registry.retrain_experiment).experiment_id
    (run,) = client.search_runs([experiment])
    assert (run.info.run_id, run.info.status) == (found[0]["mlflow_run_id"], "RUNNING"), "no process is tied to it"
    with start(place, "track", "close", *named, "--ended", "failed") as process:
        answer, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert json.loads(answer) == found[0]
    assert client.get_run(run.info.run_id).info.status == "FAILED"
