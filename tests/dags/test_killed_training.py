"""Fine-tuning killed in the middle of an epoch, as a process of its own and as a task: asked for again, it ends in the same model."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from dags import dag_run, retraining, runs
from registry.dag_runs import DagRun
from tests.dags.places import Place, copy
from tests.training.lakes import of_people
from tests.training.made import windows
from training.network import SceneNet
from training.tracking import no_progress

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
LONG = "[finetune]\nepochs = 12\ntrainable = 'block'\nmax_steps = 100000"
"""Epochs enough for one to be under way whenever we look."""
TASK = """
import sys
from datetime import timedelta
from dags import commands
commands.run([sys.executable, "-m", "sensorloop", *sys.argv[1:]], report=lambda line: None, grace=timedelta(seconds=5))
"""


def long(place: Place, home: Path) -> Place:
    """Another installation like this one, whose trainings are long."""
    made = copy(place, home)
    before = '[finetune]\ntrainable = "block"\nepochs = 2'
    text = (home / "sensorloop.toml").read_text(encoding="utf-8").replace(before, LONG)
    (home / "sensorloop.toml").write_text(text, encoding="utf-8")
    assert made.settings().finetune.epochs == 12
    return made


def start(place: Place, *program: str) -> subprocess.Popen[bytes]:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("SENSORLOOP", "KAFKA"))}
    env |= {
        "SENSORLOOP_HOME": str(place.home), "SENSORLOOP_CONFIG": str(place.home / "sensorloop.toml"), "PYTHONPATH": str(ROOT),
        "SENSORLOOP_COMPUTE__CHECKPOINT_EVERY": "0",
    }  # fmt: skip
    return subprocess.Popen((sys.executable, *program), env=env, cwd=place.home, stderr=subprocess.PIPE)


def kill_in_an_epoch(place: Place, process: subprocess.Popen[bytes], checkpoint: Path) -> None:
    """``kill -9`` once it has got further than the checkpoint that was there."""
    before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
    deadline = time.monotonic() + 240
    with process:
        family = psutil.Process(process.pid)
        while not (checkpoint.exists() and checkpoint.stat().st_mtime_ns > before):
            assert process.poll() is None, (process.stderr.read() if process.stderr else b"")[-2000:]
            assert time.monotonic() < deadline
            time.sleep(0.02)  # between two looks at another process
        children = family.children(recursive=True)
        process.send_signal(signal.SIGKILL)
        process.wait()
        _, alive = psutil.wait_procs(children, timeout=60)
        assert not alive, "whoever kills a task ends its training"


def test_whoever_is_killed_the_model_is_the_same(trained: tuple[Place, dict[str, Any]], tmp_path: Path) -> None:
    place, other = (long(trained[0], tmp_path / name) for name in ("killed", "undisturbed"))
    # Labels that the original model is wrong about, so that there is something to train.
    made = of_people("hard", windows(people=5, each=5))
    for each in (place, other):
        version = each.publish(replace(made, scenes=(made.scenes + 1) % 3), cohort="hard")
    scored = [
        retraining.rescore(each.settings(), cohort="hard", lake_version=version, seed=0, progress=no_progress)
        for each in (place, other)
    ]
    key = scored[0]["run_key"]
    assert scored[1]["run_key"] == key
    night = DagRun(dag_id="retrain", run_id="night")
    work = {"cohorts": ["hard"], "lake_version": version, "labels_version": -1, "policy": "plain", "seed": 0}
    above = dag_run.open_run(place.settings(), night, **work)["mlflow_run_id"]
    finetune = ("finetune", "--run-key", key, "--arms", "plain", "--below", above)
    folder = place.settings().runs / key
    checkpoint = folder / "plain" / "checkpoint.pt"
    kill_in_an_epoch(place, start(place, "-m", "sensorloop", *finetune), checkpoint)
    assert "plain" not in runs.results(folder)
    kill_in_an_epoch(place, start(place, "-c", TASK, *finetune), checkpoint)
    assert "plain" not in runs.results(folder)
    assert dag_run.open_run(place.settings(), night, **work)["mlflow_run_id"] == above, "a task that is tried again"
    assert place.client().get_run(above).info.status == "RUNNING"
    with start(place, "-m", "sensorloop", *finetune) as process:
        assert process.wait(400) == 0

    retraining.finetune(other.settings(), run_key=key, arms=("plain",), progress=no_progress)
    undisturbed = other.settings().runs / key
    assert SceneNet.load(folder / "plain").digest() == SceneNet.load(undisturbed / "plain").digest()
    assert runs.results(folder)["plain"]["details"] == runs.results(undisturbed)["plain"]["details"]
    name = place.settings().registry.retrain_experiment
    client = place.client()
    found = client.search_runs([client.get_experiment_by_name(name).experiment_id], f"tags.run_key = '{key}'")
    assert sorted(run.data.tags.get("arm", "parent") for run in found) == ["original", "parent", "plain"], (
        "one run each"
    )
    assert {run.info.status for run in found} == {"FINISHED"}
    (parent,) = [run for run in found if "arm" not in run.data.tags]
    assert parent.data.tags["mlflow.parentRunId"] == above
    assert client.get_run(above).info.status == "RUNNING", "until the DAG run has ended"
    dag_run.close_run(place.settings(), night, cohorts=["hard"], failed=False)
    ended = client.search_runs(
        [parent.info.experiment_id], "tags.dag_run = 'retrain/night' AND attributes.run_name = 'retrain'"
    )
    assert [(run.info.run_id, run.info.status) for run in ended] == [(above, "FINISHED")]
