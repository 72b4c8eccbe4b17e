"""The DAG ``retrain``: newly labelled windows in, a champion or a refusal out.

No logic lives here. Each task runs one ``sensorloop`` command as a process of its own (:mod:`dags.outcome`) and hands on
its answer, a few paths and numbers. The work is named by the lake's version, never by the clock: a run that was triggered
by hand, by the schedule or twice does the same work for the same data, and a run key trains once.
"""

# mypy: disable-error-code="misc,untyped-decorator"
# (Airflow's own types are not followed: reading them takes longer than reading all of ours.)
from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Any

from airflow.sdk import BaseOperatorLink, CronTriggerTimetable, Param, dag, task

from dags.outcome import RetryByOutcome, sensorloop
from dags.settings import load

SETTINGS = load().retrain
ARMS = ("all", "filterloss", "plain", "oversampling", "undersampling")

command = partial(sensorloop, executable=SETTINGS.executable, grace=SETTINGS.grace)

PARAMS = {
    "cohort": Param(
        SETTINGS.cohort,
        type="string",
        minLength=1,
        title="Cohort",
        description="Fleet to retrain for: the cohort of its windows in the lake.",
    ),
    "arms": Param(
        list(SETTINGS.arms),
        type="array",
        items={"type": "string", "enum": list(ARMS)},
        minItems=1,
        examples=list(ARMS),
        title="Arms",
        description=(
            "What to train. `filterloss` is the method, the others what people would use instead, on the same split and "
            "budget. `all` costs the most and gives the whole comparison. `filterloss` is always trained: it is what is promoted."
        ),
    ),
    "min_windows": Param(
        SETTINGS.min_windows,
        type="integer",
        minimum=0,
        title="New windows needed",
        description="Windows that must be newly labelled, or otherwise labelled, since the last retraining; with fewer the run is skipped.",
    ),
    "force": Param(
        False,  # noqa: FBT003 - the default of a checkbox
        type="boolean",
        title="Force",
        description="Retrain whether there is anything new or not.",
    ),
    "seed": Param(
        SETTINGS.seed,
        type="integer",
        minimum=0,
        title="Seed",
        description="The same lake version and seed are the same run, and are trained once. Change it to train again.",
    ),
}


class MlflowRun(BaseOperatorLink):
    """The button beside the task that leads to its MLflow run."""

    name = "MLflow run"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:  # noqa: ARG002 - Airflow's signature
        """The address that the command gave, or nothing if it gave none."""
        from airflow.sdk.execution_time.xcom import XCom

        answer = XCom.get_value(ti_key=ti_key, key="return_value")
        return str((answer or {}).get("mlflow_url") or "")


DOC = f"""
### Newly labelled windows in, a champion or a refusal out

| task | what it does | when it stops |
|---|---|---|
| `pin` | names the lake's versions and counts what is new | too little is new: the run is skipped; the log says how much is missing |
| `rescore` | scores every label's quality, out of fold | too few labels, a scene without any, one subject only: fails at once, saying so |
| `finetune` | trains FilterLoss and what it is compared with | on queue and pool `gpu`; the button *MLflow run* leads to its curves |
| `promote` | registers FilterLoss's model and asks the gate | a refusal is an answer, not a failure: the log says which rule, by how much |

Runs at `{SETTINGS.schedule or "nobody's call but yours"}` and by hand (▶, with the parameters explained there). The same
lake version and seed are the same work, however often they are asked for.
"""


def schedule() -> CronTriggerTimetable | None:
    """When to run. Switched on, the DAG waits for the next tick instead of making up for the one that has passed."""
    if not SETTINGS.schedule:
        return None
    return CronTriggerTimetable(SETTINGS.schedule, timezone="UTC", run_immediately=timedelta(0))


@dag(
    dag_id="retrain",
    dag_display_name="Retrain",
    description="Pin the lake, score the labels, fine-tune with FilterLoss, promote what passes the gate.",
    schedule=schedule(),
    catchup=False,
    max_active_runs=1,
    max_consecutive_failed_dag_runs=SETTINGS.max_failed_runs,
    tags={"sensorloop", "training"},
    params=PARAMS,
    doc_md=DOC,
    default_args={
        "owner": SETTINGS.owner,
        "retries": SETTINGS.retries,
        "retry_policy": RetryByOutcome(),
        "retry_delay": SETTINGS.retry_delay,
        "retry_exponential_backoff": 2.0,
        "max_retry_delay": 10 * SETTINGS.retry_delay,
        "execution_timeout": SETTINGS.step_timeout,
    },
)
def retrain() -> None:
    """The four steps, one after the other."""

    @task(multiple_outputs=False)
    def pin(**context: Any) -> dict[str, Any]:
        """The lake's versions to work on, if there is enough new: `{"lake_version", "labels_version", "windows", "labelled", …}`."""
        params = context["params"]
        options = ("--cohort", params["cohort"], "--min-windows", str(params["min_windows"]))
        return command("lake", "pin", *options, *(("--force",) if params["force"] else ()))

    @task(multiple_outputs=False, execution_timeout=SETTINGS.rescore_timeout)
    def rescore(pinned: dict[str, Any], **context: Any) -> dict[str, Any]:
        """Quality scores, out of fold, of every labelled window at that version: `{"run_key", "run_dir"}`."""
        version, said = str(pinned["lake_version"]), str(pinned.get("labels_version", -1))
        versions = ("--lake-version", version, "--labels-version", said)
        return command("rescore", "--cohort", pinned["cohort"], *versions, "--seed", str(context["params"]["seed"]))

    @task(multiple_outputs=False, queue="gpu", pool="gpu", execution_timeout=SETTINGS.finetune_timeout)
    def finetune(scored: dict[str, Any], **context: Any) -> dict[str, Any]:
        """Every arm, on one split and one budget: `{"run_key", "mlflow_run_id", "mlflow_url", "results"}`."""
        chosen = context["params"]["arms"]
        arms = ["all"] if "all" in chosen else list(dict.fromkeys(["filterloss", *chosen]))
        return command("finetune", "--run-key", scored["run_key"], "--arms", ",".join(arms))

    @task(multiple_outputs=False)
    def promote(trained: dict[str, Any]) -> dict[str, Any]:
        """The gate's verdict; the champion moves if it passes: `{"passed", "version", "champion", "reasons"}`."""
        return command("promote", "--run-key", trained["run_key"])

    trained = finetune(rescore(pin()))
    trained.operator.operator_extra_links = (MlflowRun(),)
    promote(trained)


retrain()
