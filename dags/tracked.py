"""The first and the last task of a DAG run that has a run of its own in MLflow (:mod:`dags.dag_run`): a setup and its teardown.

Airflow runs the latter whatever becomes of the work between them. Of a DAG run that failed it fails as well: who clears what has failed
clears it, too, and MLflow hears of the end that the DAG run comes to then.
"""

# mypy: disable-error-code="misc,untyped-decorator,attr-defined"
# (Airflow's own types are not followed: reading them takes longer than reading all of ours.)
from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from airflow.sdk import task

from dags.outcome import TaskFailed
from dags.tasks import MlflowRun, command, each, versions

_log = logging.getLogger(__name__)
_SUCCESS, _FAILED = "success", "failed"
_NOT_DONE = {_FAILED, "upstream_failed"}


@task(multiple_outputs=False)
def open_run(pinned: list[dict[str, Any]], **context: Any) -> dict[str, Any]:
    """This run's own run in MLflow, above those of its cohorts: `{"mlflow_run_id", "mlflow_url"}`."""
    params = context["params"]
    recipe = ("--policy", params["policy"], "--seed", str(params["seed"]))
    page = str(context["ti"].log_url).partition("/tasks/")[0]
    return command("track", "open", *_named(pinned, context), *versions(pinned[0]), *recipe, "--url", page)


@task(multiple_outputs=False)
def close_run(pinned: list[dict[str, Any]], **context: Any) -> dict[str, Any]:
    """Ends it as this run ends, with what came of each cohort: `{"mlflow_run_id", "mlflow_url"}`. Fails if this run does."""
    end = ended(context)
    answer = command("track", "close", *_named(pinned, context), "--ended", end)
    if end == _FAILED:
        where = answer["mlflow_url"]
        msg = f"This DAG run has failed, and {where} says so. So does this task, so that clearing what has failed clears it, too."
        _log.error("%s", msg)
        raise TaskFailed(msg, retriable=False)
    return answer


def run_of(pinned: Any) -> tuple[Any, Any]:
    """Both tasks for what is to be done, each with a button that leads to the run."""
    both = open_run(pinned), close_run(pinned)
    for each_task in both:
        each_task.operator.operator_extra_links = (MlflowRun(),)
    return both


def ended(context: Mapping[str, Any]) -> str:
    """How a DAG run will end of which only teardowns are left, ``success`` or ``failed``, by the rule that Airflow has.

    Its last tasks decide, teardowns apart; what failed before them has failed them, too.
    """
    dag, ti = context["dag"], context["ti"]
    last = [one.task_id for one in dag.tasks if not one.is_teardown and _only_teardowns_follow(dag, one)]
    states = ti.get_task_states(dag.dag_id, task_ids=last, run_ids=[context["run_id"]])[context["run_id"]]
    return _FAILED if _NOT_DONE & set(states.values()) else _SUCCESS


def _only_teardowns_follow(dag: Any, task: Any) -> bool:
    return all(dag.get_task(name).is_teardown for name in task.downstream_task_ids)


def _named(pinned: list[dict[str, Any]], context: Mapping[str, Any]) -> tuple[str, ...]:
    """The options that name the DAG run, and whom it is for."""
    cohorts = each("--cohort", [given["cohort"] for given in pinned])
    return ("--dag-id", context["dag"].dag_id, "--run-id", context["run_id"], *cohorts)
