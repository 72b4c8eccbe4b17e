"""The commands ``sensorloop track open`` and ``close``: the run in MLflow of a whole DAG run."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from dags import dag_run
from dags.settings import load as load_settings
from dags.terminal import EXIT_NOTHING, result, say

app = typer.Typer(
    help="The run in MLflow of a whole DAG run, above those of its cohorts: what Airflow's tasks call.",
    no_args_is_help=True,
)

DagId = Annotated[str, typer.Option(help="The DAG.")]
RunId = Annotated[str, typer.Option(help="Its run, as Airflow calls it.")]
Cohorts = Annotated[list[str], typer.Option(help="Whom it retrains for; may be given several times.")]


class Ended(StrEnum):
    """How a DAG run ends, in Airflow's words."""

    SUCCESS = "success"
    FAILED = "failed"


@app.command("open")
def open_(
    dag_id: DagId,
    run_id: RunId,
    cohort: Cohorts,
    lake_version: Annotated[int, typer.Option(help="Version of the windows table.")],
    labels_version: Annotated[int, typer.Option(help="Version of the labels table; -1: none.")],
    policy: Annotated[str, typer.Option(help="The arm whose model is asked to become champion.")] = "filterloss",
    seed: Annotated[int, typer.Option(help="Of folds and models.")] = 0,
    url: Annotated[str, typer.Option(help="Of Airflow's page of the run.")] = "",
) -> None:
    """Open the run of a DAG run; a second time it is the same, and goes on. Its id is for 'sensorloop finetune --below'."""
    from registry.dag_runs import DagRun

    done = dag_run.open_run(
        load_settings(), DagRun(dag_id=dag_id, run_id=run_id), cohorts=cohort, lake_version=lake_version,
        labels_version=labels_version, policy=policy, seed=seed, url=url,
    )  # fmt: skip
    say(f"MLflow run {done['mlflow_run_id']} is under way: {done['mlflow_url']}")
    result(**done)


@app.command("close")
def close(
    dag_id: DagId, run_id: RunId, cohort: Cohorts, ended: Annotated[Ended, typer.Option(help="How the DAG run ended.")]
) -> None:
    """End the run of a DAG run as the DAG run ended, with what came of each cohort.

    Exit code 99: there is none, since it was never opened, or somebody has deleted it in MLflow.
    """
    from registry.dag_runs import DagRun

    done = dag_run.close_run(
        load_settings(), DagRun(dag_id=dag_id, run_id=run_id), cohorts=cohort, failed=ended is Ended.FAILED
    )
    if done is None:
        say(f"MLflow has no run of {dag_id}/{run_id}: it was never opened, or somebody has deleted it.")
        raise typer.Exit(EXIT_NOTHING)
    say(f"MLflow run {done['mlflow_run_id']} has ended: {done['mlflow_url']}")
    result(**done)
