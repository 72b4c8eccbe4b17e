"""The DAG ``retrain`` as it is written: what it promises, what it imports, and how long Airflow takes to read it.

Airflow stays in a process of its own: it takes seconds to import, and warns while it does.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from training.arm_names import ARMS

ROOT = Path(__file__).parents[2]
DAGS = ROOT / "dags"

SCRIPT = """
import json, os, sys, time
from datetime import timedelta

import airflow.sdk, airflow.serialization.serialized_objects
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.exceptions import AirflowSkipException
from airflow.serialization.serialized_objects import DagSerialization

def task(t):
    return {"queue": t.queue, "pool": t.pool, "retries": t.retries, "delay": t.retry_delay.total_seconds(),
            "timeout": t.execution_timeout.total_seconds(), "owner": t.owner, "doc": t.doc_md,
            "policy": type(t.retry_policy).__name__, "links": [link.name for link in t.operator_extra_links],
            "after": sorted(t.upstream_task_ids)}

def described(d):
    params = {name: {**p.schema, "value": p.value, "description": p.description} for name in d.params for p in [d.params.get_param(name)]}
    immediately = getattr(d.timetable, "run_immediately", None)
    return {"tags": sorted(d.tags), "catchup": d.catchup, "max_active_runs": d.max_active_runs, "doc": d.doc_md,
            "failed": d.max_consecutive_failed_dag_runs, "schedule": getattr(d.timetable, "expression", None),
            "immediately": None if immediately is None else immediately.total_seconds(), "params": params,
            "tasks": {t.task_id: task(t) for t in d.tasks}, "stored": len(json.dumps(DagSerialization.to_dict(d)))}

def read(folder, environ):
    os.environ.update(environ)
    before, started = set(sys.modules), time.perf_counter()
    bag = DagBag(dag_folder=folder, bundle_name="test")
    seconds = time.perf_counter() - started
    loaded = sorted(set(sys.modules) - before)
    for name in [*environ, *(name for name in sys.modules if name.split(".")[0] == "dags")]:
        os.environ.pop(name, None)
        sys.modules.pop(name, None)
    return {"errors": bag.import_errors, "files": sorted({d.fileloc for d in bag.dags.values()}),
            "seconds": seconds, "loaded": loaded, "dags": {d.dag_id: described(d) for d in bag.dags.values()}}

def outcome(exit_code):
    from dags import outcome
    script = f"import sys; print('error: because', file=sys.stderr); print('{{}}'); sys.exit({exit_code})"
    try:
        outcome.sensorloop("-c", script, executable=sys.executable, grace=timedelta(seconds=5))
    except AirflowSkipException as skipped:
        return f"skipped: {skipped}"
    except outcome.TaskFailed as failed:
        return f"{outcome.RetryByOutcome().evaluate(failed, 1, 3).action.value}: {failed.code}"
    return "done"

folder, cases = sys.argv[1], json.loads(sys.argv[2])
found = {name: read(folder, environ) for name, environ in cases.items()}
found["outcomes"] = {str(code): outcome(code) for code in (0, 2, 3, 4, 99)}
from dags.outcome import RetryByOutcome
found["outcomes"]["a bug"] = RetryByOutcome().evaluate(ValueError("a bug"), 1, 3).action.value
print(json.dumps(found))
"""
"""Reads the DAG folder under several environments, in one process since importing Airflow takes seconds."""


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What Airflow sees."""
    folder = tmp_path_factory.mktemp("airflow")
    (folder / "wrong.toml").write_text("[retrain]\nshedule = '@hourly'\n", encoding="utf-8")
    cases: dict[str, dict[str, str]] = {
        "default": {},
        "changed": {
            "SENSORLOOP_RETRAIN__SCHEDULE": "",
            "SENSORLOOP_RETRAIN__COHORT": "berlin",
            "SENSORLOOP_RETRAIN__ARMS": '["filterloss", "plain"]',
            "SENSORLOOP_RETRAIN__RETRIES": "0",
            "SENSORLOOP_RETRAIN__FINETUNE_TIMEOUT": "60",
        },
        "wrong": {"SENSORLOOP_CONFIG": str(folder / "wrong.toml")},
    }
    env = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "SENSORLOOP_"))}
    env |= {"AIRFLOW_HOME": str(folder), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
    env |= {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        (sys.executable, "-c", SCRIPT, str(DAGS), json.dumps(cases)),
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


@pytest.fixture
def read(airflow: dict[str, Any]) -> dict[str, Any]:
    """The DAG folder with nothing set."""
    found: dict[str, Any] = airflow["default"]
    assert found["errors"] == {}
    return found


@pytest.fixture
def dag(read: dict[str, Any]) -> dict[str, Any]:
    """The DAG ``retrain`` of that folder."""
    found: dict[str, Any] = read["dags"]["retrain"]
    return found


def dag_files() -> list[str]:
    """Files that define a DAG, found by reading them ourselves."""
    return sorted(
        str(path)
        for path in DAGS.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
        and any(
            isinstance(d, ast.Call) and isinstance(d.func, ast.Name) and d.func.id == "dag" for d in node.decorator_list
        )
    )


def test_airflow_reads_the_dag_files_and_no_other(read: dict[str, Any]) -> None:
    assert read["files"] == dag_files()
    assert not [name for name in read["loaded"] if name.startswith("dags.local")]


def test_reading_is_quick_and_imports_nothing_heavy(read: dict[str, Any]) -> None:
    heavy = {
        "torch",
        "torchvision",
        "mlflow",
        "polars",
        "pandas",
        "sklearn",
        "scipy",
        "matplotlib",
        "deltalake",
        "kafka",
        "pyarrow",
    }
    assert not heavy & {name.split(".")[0] for name in read["loaded"]}
    assert read["seconds"] < 1.0 * len(read["files"]) + 1.0  # the second is for a busy machine


def test_it_is_scheduled_and_pauses_itself_when_it_keeps_failing(dag: dict[str, Any]) -> None:
    assert dag["schedule"] in {"@daily", "0 0 * * *"}
    assert dag["immediately"] == 0.0
    assert not dag["catchup"]
    assert dag["max_active_runs"] == 1
    assert dag["failed"] == 3
    assert "sensorloop" in dag["tags"]
    assert "| `pin` |" in dag["doc"]


def test_the_steps_come_one_after_the_other(dag: dict[str, Any]) -> None:
    after = {name: task["after"] for name, task in dag["tasks"].items()}
    assert after == {"pin": [], "rescore": ["pin"], "finetune": ["rescore"], "promote": ["finetune"]}


def test_every_task_has_an_owner_a_time_out_and_retries_where_they_help(dag: dict[str, Any]) -> None:
    for name, task in dag["tasks"].items():
        assert task["owner"] == "sensorloop", name
        assert 0 < task["timeout"] <= 12 * 3600, name
        assert task["retries"] >= 1, name
        assert task["delay"] > 0, name
        assert task["policy"] == "RetryByOutcome", name
        assert task["doc"], name


def test_only_fine_tuning_needs_a_gpu(dag: dict[str, Any]) -> None:
    places = {name: (task["queue"], task["pool"]) for name, task in dag["tasks"].items()}
    assert places.pop("finetune") == ("gpu", "gpu")
    assert set(places.values()) == {("default", "default_pool")}
    assert dag["tasks"]["finetune"]["links"] == ["MLflow run"]


def test_the_trigger_form_explains_itself(dag: dict[str, Any]) -> None:
    params = dag["params"]
    assert {name: param["value"] for name, param in params.items()} == {
        "cohort": "target", "arms": ["all"], "min_windows": 100, "force": False, "seed": 0,
    }  # fmt: skip
    for name, param in params.items():
        assert param["type"] in {"string", "array", "integer", "boolean"}, name
        assert param["title"], name
        assert param["description"].endswith("."), name


def test_arms_are_chosen_from_those_there_are(dag: dict[str, Any]) -> None:

    arms = dag["params"]["arms"]
    assert set(arms["items"]["enum"]) == {"all", *ARMS} - {"original"}
    assert "`filterloss` is always trained" in arms["description"]


def test_airflow_can_store_it(dag: dict[str, Any]) -> None:
    assert 1000 < dag["stored"] < 50_000


def test_settings_change_it(airflow: dict[str, Any]) -> None:
    dag = airflow["changed"]["dags"]["retrain"]
    assert dag["schedule"] is None
    assert dag["params"]["cohort"]["value"] == "berlin"
    assert dag["params"]["arms"]["value"] == ["filterloss", "plain"]
    assert dag["tasks"]["pin"]["retries"] == 0
    assert dag["tasks"]["finetune"]["timeout"] == 60


def test_an_unknown_setting_is_an_import_error_that_names_it(airflow: dict[str, Any]) -> None:
    (error,) = airflow["wrong"]["errors"].values()
    assert "'shedule'. Did you mean 'schedule'?" in error


def test_an_exit_code_becomes_the_state_of_a_task(airflow: dict[str, Any]) -> None:
    assert airflow["outcomes"] == {
        "0": "done",
        "2": "fail: because",
        "3": "fail: because",
        "4": "default: because",
        "99": "skipped: because",
        "a bug": "default",
    }
