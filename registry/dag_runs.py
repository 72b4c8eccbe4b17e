"""The run of a DAG run: above the runs of its run keys, and under way for as long as the DAG run is.

How there is one of a DAG run, RUNNING from its first task to its last, whatever is killed in between:

1. It is found again by its tag, ``dag_run``: by a task that is tried again, by a DAG run that was cleared.
2. MLflow takes two runs of one tag. Who looks and makes therefore holds the lock that promotions hold, which its holder's death
   releases (:meth:`registry.ledger.Ledger.exclusive`).
3. No process is tied to it. It is made, and ended by another task when all others have ended; what dies in between leaves it RUNNING.
   What is done below it once it has ended, since a task was cleared, makes it RUNNING again.
4. A run key that was trained before has its run elsewhere. That one stays where it is, and is named here by a tag.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities import DatasetInput
from mlflow.entities import Run as FoundRun
from mlflow.exceptions import MlflowException

from registry.connection import NOT_FOUND, mlflow_errors
from registry.errors import TrackingError
from registry.tracker import DAG_RUN, RUN_KEY, Above, MlflowRunLog, find

_ACTIVE, _RUNNING = "active", "RUNNING"
_NO_NAME = re.compile(r"[^/\w.\- :]")
_LONGEST = 200  # characters; MLflow takes 250, and something stands before or behind


@dataclass(frozen=True, kw_only=True, slots=True)
class DagRun:
    """A run of a DAG, as Airflow names it."""

    dag_id: str
    run_id: str

    def __str__(self) -> str:
        return f"{self.dag_id}/{self.run_id}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """The run of a run key."""

    run_id: str
    status: str
    """``RUNNING``, ``FINISHED``, ``FAILED`` or ``KILLED``."""
    dag_run: str | None
    """The DAG run that it was made by, and is below; None: it was made by hand."""
    inputs: tuple[DatasetInput, ...]


class DagRuns:
    """The DAG runs' runs in an experiment.

    Args:
        client: of the server that has them.
        experiment_id: MLflow's id of the experiment.
        exclusive: holds what of all who open a run one has at a time.
        tags: set on every run that is opened, such as :func:`registry.environment.environment`.
    """

    def __init__(
        self,
        client: MlflowClient,
        experiment_id: str,
        *,
        exclusive: Callable[[], AbstractContextManager[object]],
        tags: Mapping[str, str] | None = None,
    ) -> None:
        self._client = client
        self._experiment_id = experiment_id
        self._exclusive = exclusive
        self._tags = dict(tags or {})

    def open(self, dag_run: DagRun, *, tags: Mapping[str, str]) -> MlflowRunLog:
        """The run of a DAG run, under way: made the first time, found again after that.

        Args:
            dag_run: whose.
            tags: for searching.

        Raises:
            TrackingError: MLflow refused, or does not answer.
            LedgerBusy: somebody else has held the lock for too long.
        """
        tags = {**self._tags, **tags, **_tags(dag_run), "dag_id": dag_run.dag_id, "dag_run_id": dag_run.run_id}
        with mlflow_errors(f"open the run of {dag_run}"), self._exclusive():
            found = self._find(dag_run)
            if found is None:
                run_id = self._client.create_run(self._experiment_id, tags=tags, run_name=dag_run.dag_id).info.run_id
            else:
                run_id = found.info.run_id
                self._client.update_run(run_id, status=_RUNNING)
        log = MlflowRunLog(self._client, run_id, resumed=found is not None)
        if found is not None:
            log.tags(tags)
        return log

    def find(self, dag_run: DagRun) -> tuple[MlflowRunLog, dict[str, str]] | None:
        """The run of a DAG run and its tags; None if none was opened, or somebody has deleted it.

        Raises:
            TrackingError: MLflow does not answer.
        """
        with mlflow_errors(f"look for the run of {dag_run}"):
            found = self._find(dag_run)
        if found is None:
            return None
        return MlflowRunLog(self._client, found.info.run_id, resumed=True), dict(found.data.tags)

    def end(self, run: MlflowRunLog, *, failed: bool) -> None:
        """End a run as the DAG run did.

        Raises:
            TrackingError: MLflow refused, or does not answer.
        """
        with mlflow_errors(f"end run {run.run_id}"):
            self._client.set_terminated(run.run_id, "FAILED" if failed else "FINISHED")

    def holds(self, above: Above, cohort: str, run_key: str) -> None:
        """Note on a DAG run's run which run key a cohort has there; the newest counts. Cohorts do not get in each other's way.

        Raises:
            TrackingError: MLflow refused, or does not answer.
        """
        with mlflow_errors(f"note run key {run_key} on run {above.run_id}"):
            self._client.set_tag(above.run_id, held(cohort), run_key)

    def member(self, cohort: str, run_key: str) -> Member | None:
        """The run of a run key, wherever it stands; None if there is none.

        Raises:
            TrackingError: MLflow does not answer.
        """
        with mlflow_errors(f"look for the run of run key {run_key}"):
            run = find(self._client, self._experiment_id, cohort, {RUN_KEY: run_key})
        if run is None:
            return None
        inputs = tuple(run.inputs.dataset_inputs) if run.inputs else ()
        return Member(run_id=run.info.run_id, status=run.info.status, dag_run=run.data.tags.get(DAG_RUN), inputs=inputs)

    def saw(self, run: MlflowRunLog, member: Member) -> None:
        """Say that a DAG run's run has seen the data that one of its run keys has; those that it has already are left out by MLflow.

        Raises:
            TrackingError: MLflow refused, or does not answer.
        """
        if member.inputs:
            with mlflow_errors(f"log data sets of run {run.run_id}"):
                self._client.log_inputs(run.run_id, list(member.inputs))

    def _find(self, dag_run: DagRun) -> FoundRun | None:
        return find(self._client, self._experiment_id, dag_run.dag_id, _tags(dag_run))


def above(client: MlflowClient, run_id: str) -> Above:
    """The run of a DAG run, for others to be put below; under way again, if it had ended.

    Raises:
        TrackingError: there is no such run (any more), or it is no DAG run's.
    """
    with mlflow_errors(f"look for run {run_id}"):
        found = _get(client, run_id)
    if found is None or found.info.lifecycle_stage != _ACTIVE:
        gone = "MLflow has no such run" if found is None else "somebody has deleted it in MLflow"
        msg = (
            f"Nothing can be put below run {run_id}: {gone}. Clear the DAG run's task 'open_run', which opens another."
        )
        raise TrackingError(msg)
    if DAG_RUN not in found.data.tags or RUN_KEY in found.data.tags:
        msg = f"Nothing can be put below run {run_id}: it is no DAG run's. 'sensorloop track open' opens one, and answers its id."
        raise TrackingError(msg)
    go_on(client, run_id)
    return Above(run_id=run_id, dag_run=found.data.tags[DAG_RUN])


def go_on(client: MlflowClient, run_id: str) -> None:
    """A DAG run's run is under way again, if it had ended. One that somebody has deleted stays deleted.

    Raises:
        TrackingError: MLflow does not answer.
    """
    with mlflow_errors(f"go on with run {run_id}"):
        found = _get(client, run_id)
        if found is not None and found.info.lifecycle_stage == _ACTIVE and found.info.status != _RUNNING:
            client.update_run(run_id, status=_RUNNING)


def held(cohort: str) -> str:
    """The tag on a DAG run's run that says which run key a cohort has there."""
    return f"run_key.{group(cohort)}"


def group(cohort: str) -> str:
    """A cohort as the first part of a metric's or tag's name: ``target/phone_model:Pixel 8``; a different one for each cohort.

    MLflow takes letters, digits, blanks and ``_-./:``, and no name that as a path would be another.
    """
    name = cohort.replace("=", ":")
    safe = posixpath.normpath(_NO_NAME.sub("_", name)).strip("/.")[:_LONGEST]
    if safe == name and ":" not in cohort:
        return safe
    return f"{safe}-{hashlib.blake2b(cohort.encode(), digest_size=4).hexdigest()}"


def _tags(dag_run: DagRun) -> dict[str, str]:
    return {DAG_RUN: str(dag_run)}


def _get(client: MlflowClient, run_id: str) -> FoundRun | None:
    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.error_code == NOT_FOUND:
            return None
        raise
