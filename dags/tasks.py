"""What the DAGs have in common: how a task runs a command, where it gets room, and what wakes a retraining."""

# mypy: disable-error-code="misc"
# (Airflow's own types are not followed: reading them takes longer than reading all of ours.)
from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from datetime import timedelta
from functools import partial
from typing import Any

from airflow.sdk import Asset, BaseOperatorLink, CronTriggerTimetable

from dags.outcome import RetryByOutcome, sensorloop
from dags.settings import load

SETTINGS = load()
RETRAIN = SETTINGS.retrain

command = partial(sensorloop, executable=RETRAIN.executable, grace=RETRAIN.grace, silence=RETRAIN.silence)
"""Runs a ``sensorloop`` command as the work of a task."""

ENOUGH = Asset(
    name="labelled-windows",
    uri="sensorloop://lake/labelled-windows",
    group="sensorloop",
    extra={
        "says": "Enough labelled windows are new. It only wakes who listens: what there is to do, they ask the lake."
    },
)

DEFAULTS: dict[str, Any] = {
    "owner": RETRAIN.owner,
    "retries": RETRAIN.retries,
    "retry_policy": RetryByOutcome(),
    "retry_delay": RETRAIN.retry_delay,
    "retry_exponential_backoff": 2.0,
    "max_retry_delay": 10 * RETRAIN.retry_delay,
    "execution_timeout": RETRAIN.step_timeout,
}
"""Of every task of every DAG, where it says nothing else."""

DAG: dict[str, Any] = {
    "catchup": False,
    "max_active_runs": 1,
    "max_consecutive_failed_dag_runs": RETRAIN.max_failed_runs,
    "default_args": DEFAULTS,
}
"""Of every DAG."""


def cron(expression: str) -> CronTriggerTimetable | None:
    """When to run; None: never by itself. Switched on, a DAG waits for the next tick instead of making up for the one that has passed."""
    return CronTriggerTimetable(expression, timezone="UTC", run_immediately=timedelta(0)) if expression else None


def each(option: str, values: Iterable[str]) -> tuple[str, ...]:
    """An option once for every value."""
    return tuple(word for value in values for word in (option, value))


def versions(given: Mapping[str, Any]) -> tuple[str, ...]:
    """The options that name a version of the lake."""
    return ("--lake-version", str(given["lake_version"]), "--labels-version", str(given["labels_version"]))


def cohorts(params: Mapping[str, Any]) -> tuple[str, ...]:
    """The cohorts of a run: one may be given without brackets."""
    given = params["cohort"]
    return (given,) if isinstance(given, str) else tuple(given)


def plain(name: str) -> str:
    """A name of letters, digits and hyphens, a different one for each name: Airflow takes little else in a run's."""
    digest = hashlib.blake2b(name.encode(), digest_size=4).hexdigest()
    return f"{re.sub(r'[^A-Za-z0-9]+', '-', name).strip('-')[:60]}-{digest}"


def retraining(behind: Mapping[str, Any]) -> dict[str, Any]:
    """How to start ``retrain`` for a champion that has fallen behind; the same for the same champion and version of the lake.

    Not by force: when its turn comes, another run may have judged these windows.

    Args:
        behind: an answer of ``sensorloop watch``.
    """
    seen = "-".join(str(behind[name]) for name in ("version", "lake_version", "labels_version"))
    return {
        "trigger_run_id": f"behind__{plain(behind['cohort'])}__{seen}",
        "conf": {"cohort": [behind["cohort"]], "min_windows": SETTINGS.care.least_windows},
        "note": behind["text"],
    }


class AnswerLink(BaseOperatorLink):
    """A button beside a task that leads to an address in its command's answer."""

    key: str

    def get_link(self, operator: Any, *, ti_key: Any) -> str:  # noqa: ARG002 - Airflow's signature
        """The address that the command gave, or nothing if it gave none."""
        from airflow.sdk.execution_time.xcom import XCom

        answer = XCom.get_value(ti_key=ti_key, key="return_value")
        return str((answer or {}).get(self.key) or "")


class MlflowRun(AnswerLink):
    """To the run that was trained."""

    name = "MLflow run"
    key = "mlflow_url"


class MlflowVersion(AnswerLink):
    """To the version that was registered."""

    name = "Version in MLflow"
    key = "version_url"
