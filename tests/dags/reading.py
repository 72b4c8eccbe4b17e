"""The DAG folder as Airflow reads it, for tests that hold against it what the DAGs promise.

Airflow stays in a process of its own: it takes seconds to import, and warns while it does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

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
    doc = t.doc_md or getattr(t, "partial_kwargs", {}).get("doc_md")
    return {"queue": t.queue, "pool": t.pool, "retries": t.retries, "delay": t.retry_delay.total_seconds(),
            "timeout": t.execution_timeout.total_seconds(), "owner": t.owner, "doc": doc, "rule": str(t.trigger_rule.value),
            "policy": type(t.retry_policy).__name__, "links": [link.name for link in t.operator_extra_links],
            "after": sorted(t.upstream_task_ids), "pod": t.executor_config, "kind": type(t).__name__,
            "answer_within": t.response_timeout.total_seconds() if hasattr(t, "response_timeout") else None,
            "unanswered": getattr(t, "defaults", None), "outlets": [asset.name for asset in t.outlets],
            "setup": t.is_setup, "teardown": t.is_teardown, "at_a_time": t.max_active_tis_per_dagrun}

def described(d):
    params = {name: {**p.schema, "value": p.value, "description": p.description} for name in d.params for p in [d.params.get_param(name)]}
    clock = getattr(d.timetable, "timetable", d.timetable)
    immediately = getattr(clock, "run_immediately", None)
    condition = getattr(d.timetable, "asset_condition", None)
    return {"tags": sorted(d.tags), "catchup": d.catchup, "max_active_runs": d.max_active_runs, "doc": d.doc_md,
            "failed": d.max_consecutive_failed_dag_runs, "schedule": getattr(clock, "expression", None),
            "assets": [asset.name for asset in condition.objects] if condition else [],
            "deadlines": [alert.interval.total_seconds() for alert in d.deadline or ()], "description": d.description,
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
from dags.outcome import sensorloop
ask = "import json, tempfile; print(json.dumps({'folder': tempfile.gettempdir()}))"
from dags.approval import request, said
user, why = {"id": "1", "name": "ana"}, {"why": "looks right"}
answers = {"nobody was asked": None,
           "yes": {"chosen_options": ["Approve"], "responded_by_user": user, "params_input": why},
           "no": {"chosen_options": ["Reject"], "responded_by_user": user, "params_input": {"why": ""}},
           "too late": {"chosen_options": ["Reject"], "responded_by_user": None, "params_input": {}}}
found["said"] = {name: said(answer) for name, answer in answers.items()}
from dags.approval import Approval, needless
gates = {"passed": {"passed": True, "judged": False}, "refused": {"passed": False, "judged": False},
         "promoted before": {"passed": True, "judged": True}, "refused before": {"passed": False, "judged": True}}
found["needless"] = {name: needless(gate, asks=True) for name, gate in gates.items()}
found["needless"]["off"] = needless(gates["passed"], asks=False)
before = Approval(task_id="approve", given=gates["promoted before"], response_timeout=timedelta(days=2))
found["asked again"] = before.execute({"params": {"approval": True}})
found["request"] = request({"champion": None, "reasons": ["One.", "Two."], "version_url": "http://mlflow/2"})
from dags.tasks import retraining
seen = {"cohort": "a/phone_model=b c", "version": "2", "lake_version": 5, "labels_version": -1, "text": "Behind."}
found["retraining"] = [retraining(seen), retraining(seen), retraining({**seen, "lake_version": 6})]
place = os.environ["AIRFLOW_HOME"]
found["scratch"] = sensorloop("-c", ask, executable=sys.executable, grace=timedelta(seconds=5), scratch=place)["folder"]
found["outcomes"]["a bug"] = RetryByOutcome().evaluate(ValueError("a bug"), 1, 3).action.value
print(json.dumps(found))
"""
"""Reads the DAG folder under several environments, in one process since importing Airflow takes seconds."""


def read(folder: Path) -> dict[str, Any]:
    """What Airflow sees, under each of the environments; ``folder`` is for its use."""
    (folder / "wrong.toml").write_text("[retrain]\nshedule = '@hourly'\n", encoding="utf-8")
    cases: dict[str, dict[str, str]] = {
        "default": {},
        "changed": {
            "SENSORLOOP_RETRAIN__SCHEDULE": "",
            "SENSORLOOP_RETRAIN__COHORTS": '["berlin", "berlin/phone_model=*"]',
            "SENSORLOOP_RETRAIN__LOOK_EVERY": "",
            "SENSORLOOP_RETRAIN__APPROVAL": "true",
            "SENSORLOOP_RETRAIN__APPROVAL_TIMEOUT": "3600",
            "SENSORLOOP_RETRAIN__POD_TEMPLATE": "/etc/gpu.yaml",
            "SENSORLOOP_RETRAIN__ARMS": '["filterloss", "plain"]',
            "SENSORLOOP_RETRAIN__RETRIES": "0",
            "SENSORLOOP_RETRAIN__FINETUNE_TIMEOUT": "60",
            "SENSORLOOP_RETRAIN__DEADLINE": "120",
            "SENSORLOOP_CARE__LAKE_SCHEDULE": "",
        },
        "events only": {"SENSORLOOP_RETRAIN__SCHEDULE": "", "SENSORLOOP_RETRAIN__APPROVAL": "true"},
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
