"""The DAG ``retrain`` run by a real Airflow, with a small program that keeps to the commands' contract in their place.

What the commands themselves do is tested elsewhere; here it is Airflow's part: order, parameters, answers, states, messages. For
one cohort the program makes way for the real commands, over a real lake.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest

from dags.local import standalone
from dags.local.standalone import LocalAirflow
from dags.orchestration import AirflowSettings
from streaming import ports
from tests.training.lakes import SETTINGS, publish_what_cannot_be_learned_from

pytestmark = [pytest.mark.airflow, pytest.mark.slow, pytest.mark.timeout(420)]

PATIENCE = timedelta(minutes=3)
MISSING = (
    "Scene 'Run' has no labelled window in cohort 'city' at lake version 12; 5 are needed, see [data] min_windows."
)
REAL = "few"
"""The cohort for which the real commands run: it has too few labels."""
TOO_FEW = "40 labelled windows of cohort 'city' are new; 60 more are needed."

STAND_IN = f"""#!{sys.executable} -S
import json, os, pathlib, sys

place, arguments = pathlib.Path(__file__).parent, sys.argv[1:]
calls = place / "calls.jsonl"
before = [json.loads(line) for line in calls.read_text().splitlines()] if calls.exists() else []
with calls.open("a") as file:
    file.write(json.dumps(arguments) + "\\n")

if {REAL!r} in arguments:
    os.execv(sys.executable, [sys.executable, "-m", "sensorloop", *arguments])

def end(text, exit_code):
    print(text, file=sys.stderr)
    sys.exit(exit_code)

def option(name):
    return arguments[arguments.index(name) + 1]

print("reading", *arguments, file=sys.stderr, flush=True)
match arguments[0]:
    case "lake":
        if option("--min-windows") == "100" and "--force" not in arguments:
            end({TOO_FEW!r}, 99)
        answer = {{"lake_version": 12, "labels_version": 3, "windows": 2400, "labelled": 2100, "cohort": option("--cohort")}}
    case "rescore":
        if option("--seed") == "3":
            end("error: " + {MISSING!r}, 3)
        if arguments not in before:
            end("error: the tracking server does not answer", 4)
        answer = {{"run_key": "v12-s" + option("--seed"), "run_dir": str(place)}}
    case "finetune":
        answer = {{"run_key": option("--run-key"), "mlflow_run_id": "abc", "mlflow_url": "http://127.0.0.1:25000/#/abc",
                  "results": str(place / "results.json")}}
    case "promote":
        answer = {{"passed": True, "version": "2", "champion": "2", "reasons": []}}
print("not the answer")
print(json.dumps(answer))
"""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A running Airflow and the program that its tasks run."""

    airflow: LocalAirflow
    home: Path
    program: Path

    def calls(self) -> list[list[str]]:
        """What the program was called with since this was last asked."""
        file = self.program.with_name("calls.jsonl")
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return [json.loads(line) for line in lines]

    def run(self, **conf: Any) -> tuple[str, str]:
        """Trigger the DAG and wait. Returns the run's id and its state."""
        run_id = self.airflow.api.trigger("retrain", conf)
        return run_id, self.airflow.api.wait_for_run("retrain", run_id, timeout=PATIENCE)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """An Airflow of this module's own."""
    home = tmp_path_factory.mktemp("home with a blank")
    program = home / "sensorloop"
    program.write_text(STAND_IN, encoding="utf-8")
    program.chmod(0o755)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SENSORLOOP_")}
    (home / "sensorloop.toml").write_text(SETTINGS, encoding="utf-8")
    environ["SENSORLOOP_CONFIG"] = str(home / "sensorloop.toml")
    environ |= {"SENSORLOOP_RETRAIN__EXECUTABLE": str(program), "SENSORLOOP_RETRAIN__RETRY_DELAY": "1"}
    settings = AirflowSettings(port=ports.free_ports(1)[0], parallel_tasks=1, parse_interval=timedelta(seconds=5))
    try:
        airflow = standalone.start(settings, home=home, environ=environ, die_with_parent=True)
        airflow.api.wait_for_dag("retrain", since=airflow.since)
        airflow.api.unpause("retrain")
        yield Place(airflow=airflow, home=home, program=program)
        airflow.api.close()
    finally:
        standalone.stop(home)


def test_a_run_passes_its_parameters_and_answers_on(place: Place) -> None:
    api = place.airflow.api
    run_id, state = place.run(cohort="city", arms=["filterloss", "plain"], seed=7, min_windows=5)
    assert state == "success"
    rescore = ["rescore", "--cohort", "city", "--lake-version", "12", "--labels-version", "3", "--seed", "7"]
    assert place.calls() == [
        ["lake", "pin", "--cohort", "city", "--min-windows", "5"],
        rescore,
        rescore,  # the first try failed, and could be repeated
        ["finetune", "--run-key", "v12-s7", "--arms", "filterloss,plain"],
        ["promote", "--run-key", "v12-s7"],
    ]
    tasks = api.tasks("retrain", run_id)
    assert [(task["task_id"], task["state"], task["try_number"]) for task in tasks] == [
        ("pin", "success", 1),
        ("rescore", "success", 2),
        ("finetune", "success", 1),
        ("promote", "success", 1),
    ]
    assert all(one["end_date"] <= next_["start_date"] for one, next_ in pairwise(tasks))
    assert [(task["queue"], task["pool"]) for task in tasks if task["task_id"] == "finetune"] == [("gpu", "gpu")]
    answers = {task["task_id"]: api.xcom("retrain", run_id, task["task_id"]) for task in tasks}
    assert answers == {
        "pin": {"lake_version": 12, "labels_version": 3, "windows": 2400, "labelled": 2100, "cohort": "city"},
        "rescore": {"run_key": "v12-s7", "run_dir": str(place.home)},
        "finetune": {
            "run_key": "v12-s7",
            "mlflow_run_id": "abc",
            "mlflow_url": "http://127.0.0.1:25000/#/abc",
            "results": str(place.home / "results.json"),
        },
        "promote": {"passed": True, "version": "2", "champion": "2", "reasons": []},
    }
    assert api.links("retrain", run_id, "finetune") == {"MLflow run": "http://127.0.0.1:25000/#/abc"}
    log = api.task_log("retrain", run_id, "finetune")
    assert "$ sensorloop finetune --run-key v12-s7 --arms filterloss,plain" in log
    assert "reading finetune --run-key v12-s7 --arms filterloss,plain" in log
    assert "error: the tracking server does not answer" in api.task_log("retrain", run_id, "rescore", 1)


def test_what_cannot_be_done_fails_at_once_with_a_sentence(place: Place) -> None:
    api = place.airflow.api
    run_id, state = place.run(cohort="city", seed=3, force=True)
    assert state == "failed"
    assert [call[0] for call in place.calls()] == ["lake", "rescore"]
    states = api.task_states("retrain", run_id)
    assert states == {
        "pin": "success",
        "rescore": "failed",
        "finetune": "upstream_failed",
        "promote": "upstream_failed",
    }
    assert {task["task_id"]: task["try_number"] for task in api.tasks("retrain", run_id)}["rescore"] == 1
    log = api.task_log("retrain", run_id, "rescore")
    assert f"error: {MISSING}" in log
    (file,) = (place.home / "airflow" / "logs").rglob(f"*{run_id}/task_id=rescore/attempt=1.log")
    written = file.read_text(encoding="utf-8")
    assert MISSING in written
    assert "Traceback" not in written
    assert "error_detail" not in written


def test_the_real_commands_stop_it_at_once_where_labels_are_missing(place: Place) -> None:
    api = place.airflow.api
    missing = publish_what_cannot_be_learned_from(place.home)[REAL]
    run_id, state = place.run(cohort=REAL, min_windows=5)
    assert state == "failed"
    assert [call[0] for call in place.calls()] == ["lake", "rescore"], "once each"
    tasks = {task["task_id"]: (task["state"], task["try_number"]) for task in api.tasks("retrain", run_id)}
    assert tasks["pin"] == ("success", 1)
    assert tasks["rescore"] == ("failed", 1)
    assert {tasks[name][0] for name in ("finetune", "promote")} == {"upstream_failed"}
    pinned = api.xcom("retrain", run_id, "pin")
    assert (pinned["cohort"], pinned["windows"], pinned["fresh"]) == (REAL, 18, 18)
    log = api.task_log("retrain", run_id, "rescore")
    assert any(re.fullmatch(f"error: {missing}.*", line) for line in log)
    assert not any("Traceback" in line for line in log)


def test_too_little_that_is_new_skips_the_run_and_says_how_much_is_missing(place: Place) -> None:
    api = place.airflow.api
    run_id, state = place.run(cohort="city")
    assert state == "success"
    assert place.calls() == [["lake", "pin", "--cohort", "city", "--min-windows", "100"]]
    assert set(api.task_states("retrain", run_id).values()) == {"skipped"}
    assert TOO_FEW in api.task_log("retrain", run_id, "pin")


def test_it_is_found_again_fits_and_ends_with_all_it_started(place: Place) -> None:
    """Stops the module's Airflow."""
    port = int(place.airflow.url.rsplit(":", 1)[1])
    again = standalone.start(AirflowSettings(port=port), home=place.home, environ={})
    assert not again.started
    assert again.api.run_state("retrain", place.airflow.api.trigger("retrain", {"cohort": "city"})) in {
        "queued",
        "running",
    }
    again.api.close()
    memory = again.memory_bytes()
    assert memory.keys() == {"scheduler", "dag-processor", "api-server"}
    assert sum(memory.values()) < 2 * 2**30
    assert standalone.stop(place.home)
    ours = str(place.home)
    left = [
        p.pid
        for p in psutil.process_iter(["environ"])
        if (p.info["environ"] or {}).get("AIRFLOW_HOME", "").startswith(ours)
    ]
    assert not left
    assert not standalone.stop(place.home)
    assert not place.airflow.api.healthy()


def test_its_database_is_brought_up_to_date_without_loss(place: Place) -> None:
    """As after an upgrade of Airflow; with what an interrupted attempt left behind. Airflow has been stopped above."""
    folder = place.home / "airflow"
    settings = AirflowSettings(port=1)

    def runs() -> list[tuple[str]]:
        with closing(sqlite3.connect(folder / "airflow.db")) as database:
            return database.execute("SELECT run_id FROM dag_run ORDER BY run_id").fetchall()

    before = runs()
    assert len(before) >= 3
    assert not standalone.prepare(settings, home=place.home, environ={})
    (folder / "airflow.db.version").write_text("3.2.0", encoding="ascii")
    (folder / "airflow.db.part").write_text("half a database", encoding="ascii")
    assert standalone.prepare(settings, home=place.home, environ=os.environ)
    assert runs() == before
    assert not (folder / "airflow.db.part").exists()
    assert not standalone.prepare(settings, home=place.home, environ={})
