"""The DAG ``retrain``: newly labelled windows in, a champion or a refusal out.

No logic lives here. Each task runs one ``sensorloop`` command as a process of its own (:mod:`dags.outcome`) and hands on
its answer, a few paths and numbers. The work is named by the lake's version, never by the clock: a run that was triggered
by hand, by the schedule, by an event or twice does the same work for the same data, and a run key trains once.
"""

# mypy: disable-error-code="misc,untyped-decorator,attr-defined"
# (Airflow's own types are not followed: reading them takes longer than reading all of ours.)
from __future__ import annotations

from typing import Any

from airflow.sdk import (
    AssetOrTimeSchedule,
    DeadlineAlert,
    DeadlineReference,
    Param,
    SyncCallback,
    chain,
    dag,
    task,
    task_group,
)

from dags import tasks
from dags.alerts import late
from dags.approval import Approval, said
from dags.tasks import ENOUGH, MlflowRun, MlflowVersion, command, each, versions
from dags.tasks import RETRAIN as SETTINGS
from dags.tracked import run_of

ARMS = ("filterloss", "plain", "oversampling", "undersampling")

PARAMS = {
    "cohort": Param(
        list(SETTINGS.cohorts),
        type=["array", "string"],
        items={"type": "string", "minLength": 1},
        minItems=1,
        minLength=1,
        title="Cohorts",
        description=(
            "Whom to retrain for, one a line, a model each: a fleet (`target`), a part of one (`target/phone_model=Pixel 8`, "
            "`target/subject_id=ana`), or every part of a kind that has data enough (`target/phone_model=*`)."
        ),
    ),
    "policy": Param(
        SETTINGS.policy,
        type="string",
        enum=list(ARMS),
        title="Policy",
        description="The arm whose model is asked to become champion. It is always trained.",
    ),
    "arms": Param(
        list(SETTINGS.arms),
        type="array",
        items={"type": "string", "enum": ["all", *ARMS]},
        minItems=1,
        examples=["all", *ARMS],
        title="Arms",
        description=(
            "What to train beside the policy. `filterloss` is the method, the others what people would use instead, on the same split "
            "and budget: each costs as much. `all` gives the whole comparison; the gate needs none of it."
        ),
    ),
    "min_windows": Param(
        SETTINGS.min_windows,
        type="integer",
        minimum=0,
        title="New windows needed",
        description="Windows that must be newly or otherwise labelled since the last retraining; with fewer a cohort is left out.",
    ),
    "force": Param(
        False,  # noqa: FBT003 - the default of a checkbox
        type="boolean",
        title="Force",
        description="Retrain whether there is anything new or not.",
    ),
    "approval": Param(
        SETTINGS.approval,
        type="boolean",
        title="Ask a person",
        description=f"A model that passes the gate becomes champion when somebody has approved it, within {SETTINGS.approval_timeout}.",
    ),
    "seed": Param(
        SETTINGS.seed,
        type="integer",
        minimum=0,
        title="Seed",
        description="The same lake version and seed are the same run, and are trained once. Change it to train again.",
    ),
}

WHEN = " and ".join(
    [
        *([f"at `{SETTINGS.schedule}`"] if SETTINGS.schedule else []),
        *(["when `watch_lake` has seen enough that is new"] if SETTINGS.look_every else []),
        "by hand (▶, with the parameters explained there)",
    ]
)
DOC = f"""
### Newly labelled windows in, a champion or a refusal out

| task | what it does | when it stops |
|---|---|---|
| `pin` | names the lake's versions, counts what is new for each cohort | too little is new: skipped; the log says how much is missing |
| `open_run`, `close_run` | this run's own run in MLflow, above those of its cohorts; it ends as this one does, with what came of each | |
| `make_room`, `clear_room` | a folder for what tasks write on their way, removed whatever becomes of them | |
| `shards`, `embed` | what the network makes of windows, by fleet and day | one shard's failure repeats that shard |
| `cohort.rescore` | scores every label's quality, out of fold | too few labels, a scene without any, one subject only: fails at once |
| `cohort.finetune` | trains the policy and what it is compared with | on queue and pool `gpu`; *MLflow run* leads to its curves |
| `cohort.evaluate` | candidate, champion and original model on the people held out | |
| `cohort.gate` | registers the candidate and says what the gate finds | a refusal is an answer, not a failure: which rule, by how much |
| `cohort.approve` | asks a person, if one is to be asked | no answer within {SETTINGS.approval_timeout} counts as no |
| `cohort.promote` | enters what was found and said into the ledger; the champion moves if both are for it | |

Runs {WHEN}. The same lake version and seed are the same work, however often they are asked for; a run that fails has left nothing out:
what it worked on stays new until a run has ended.
"""

NAMED = "{{ task.op_kwargs.given.cohort }}"
"""What the tasks of a cohort are called in Airflow's pages."""


def schedule() -> Any:
    """By the clock, or when enough is new, whichever comes first."""
    timetable = tasks.cron(SETTINGS.schedule)
    if not SETTINGS.look_every:
        return timetable
    return [ENOUGH] if timetable is None else AssetOrTimeSchedule(timetable=timetable, assets=[ENOUGH])


@dag(
    dag_id="retrain",
    dag_display_name="Retrain",
    description="Pin the lake, score the labels, fine-tune with FilterLoss, promote what passes the gate.",
    schedule=schedule(),
    tags={"sensorloop", "training"},
    params=PARAMS,
    doc_md=DOC,
    deadline=DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=SETTINGS.late_after,
        callback=SyncCallback(late, kwargs={"within": str(SETTINGS.late_after)}),
        name="Retraining is late",
    ),
    **tasks.DAG,
)
def retrain() -> None:
    """Pin, embed in shards, and for each cohort rescore, fine-tune, evaluate, judge, ask and promote."""

    @task(multiple_outputs=False)
    def pin(**context: Any) -> list[dict[str, Any]]:
        """The cohorts with enough that is new, at one version of the lake: `[{"cohort", "lake_version", "labels_version", …}]`."""
        params = context["params"]
        options = (*each("--cohort", tasks.cohorts(params)), "--min-windows", str(params["min_windows"]))
        found: list[dict[str, Any]] = command("lake", "pin", *options, *(("--force",) if params["force"] else ()))[
            "cohorts"
        ]
        return found

    @task(multiple_outputs=False)
    def make_room(**context: Any) -> str:
        """A folder of this run's own for what its tasks write on their way: its path."""
        return str(command("scratch", "make", "--name", context["run_id"])["folder"])

    @task(multiple_outputs=False)
    def clear_room(**context: Any) -> dict[str, Any]:
        """Removes it, with what tasks that were killed have left there."""
        return command("scratch", "clear", "--name", context["run_id"])

    @task(multiple_outputs=False)
    def shards(pinned: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The shards of the lake, by fleet and day, in which windows have no embedding yet: `[{"fleet", "day", …}]`."""
        cohorts = each("--cohort", [given["cohort"] for given in pinned])
        found: list[dict[str, Any]] = command("lake", "shards", *cohorts, *versions(pinned[0]))["shards"]
        return found

    @task(
        multiple_outputs=False,
        execution_timeout=SETTINGS.rescore_timeout,
        max_active_tis_per_dagrun=SETTINGS.parallel_shards,
        map_index_template="{{ task.op_kwargs.shard.fleet }} {{ task.op_kwargs.shard.day }}",
        doc_md="What the original model makes of a shard's windows; of those that it has seen before, nothing.",
    )
    def embed(shard: dict[str, Any], room: str) -> dict[str, Any]:
        """See above."""
        return command("embed", "--cohort", shard["fleet"], "--day", shard["day"], *versions(shard), scratch=room)

    @task(multiple_outputs=False, execution_timeout=SETTINGS.rescore_timeout, map_index_template=NAMED)
    def rescore(given: dict[str, Any], room: str, **context: Any) -> dict[str, Any]:
        """Quality scores, out of fold, of every labelled window at that version: `{"run_key", "run_dir"}`."""
        options = ("--cohort", given["cohort"], *versions(given), "--seed", str(context["params"]["seed"]))
        return command("rescore", *options, scratch=room) | {"cohort": given["cohort"]}

    @task(
        multiple_outputs=False,
        queue="gpu",
        pool="gpu",
        execution_timeout=SETTINGS.finetune_timeout,
        map_index_template=NAMED,
        executor_config={"pod_template_file": SETTINGS.pod_template} if SETTINGS.pod_template else None,
    )
    def finetune(given: dict[str, Any], room: str, above: dict[str, Any], **context: Any) -> dict[str, Any]:
        """Every arm, on one split and one budget: `{"run_key", "mlflow_run_id", "mlflow_url", "results", "kept"}`."""
        params = context["params"]
        arms = ["all"] if "all" in params["arms"] else list(dict.fromkeys([params["policy"], *params["arms"]]))
        place = ("--below", above["mlflow_run_id"])
        answer = command("finetune", "--run-key", given["run_key"], "--arms", ",".join(arms), *place, scratch=room)
        return answer | {"cohort": given["cohort"]}

    @task(multiple_outputs=False, map_index_template=NAMED)
    def evaluate(given: dict[str, Any], **context: Any) -> dict[str, Any]:
        """Candidate, champion and original model on the people held out: `{"candidate", "champion", "original", "windows"}`."""
        arm = context["params"]["policy"]
        return command("evaluate", "--run-key", given["run_key"], "--arm", arm) | {"cohort": given["cohort"]}

    @task(multiple_outputs=False, map_index_template=NAMED)
    def gate(given: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
        """The candidate as a registered version, and what the gate finds: `{"passed", "judged", "version", "version_url", "reasons"}`."""
        place = ("--below", above["mlflow_run_id"])
        return command("gate", "--run-key", given["run_key"], "--arm", given["arm"], *place)

    @task(multiple_outputs=False, map_index_template=NAMED)
    def promote(given: dict[str, Any], answer: dict[str, Any] | None) -> dict[str, Any]:
        """Into the ledger; the champion moves if gate and person are for it: `{"passed", "version", "champion", "reasons"}`."""
        return command("promote", "--run-key", given["run_key"], "--arm", given["arm"], *said(answer))

    @task_group(tooltip="From a cohort's windows to its champion")
    def cohort(given: dict[str, Any], room: str, above: dict[str, Any]) -> None:
        trained = finetune(given=rescore(given=given, room=room), room=room, above=above)
        trained.operator.operator_extra_links = (MlflowRun(),)
        judged = gate(given=evaluate(given=trained), above=above)
        judged.operator.operator_extra_links = (MlflowVersion(),)
        approval = Approval(
            task_id="approve",
            given=judged,
            response_timeout=SETTINGS.approval_timeout,
            map_index_template="{{ task.given.cohort }}",
            doc_md="A person's word, if one is to be asked; no answer in time counts as no.",
        )
        promote(given=judged, answer=approval.output)

    pinned = pin()
    above, closed = run_of(pinned)
    room = make_room()
    with closed.as_teardown(setups=above), clear_room().as_teardown(setups=room):
        embedded = embed.partial(room=room).expand(shard=shards(pinned))
        done = cohort.partial(room=room, above=above).expand(given=pinned)
    chain(embedded, done)


retrain()
