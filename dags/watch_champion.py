"""The DAG ``watch_champion``: champions held against newly labelled windows; one that has fallen behind is retrained."""

# mypy: disable-error-code="misc,untyped-decorator"
# (Airflow's own types are not followed: reading them takes longer than reading all of ours.)
from __future__ import annotations

from typing import Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import dag, task

from dags import tasks
from dags.tasks import RETRAIN, SETTINGS, command, each

CARE = SETTINGS.care
DOC = f"""
### Retrains for champions that have fallen behind

| task | what it does |
|---|---|
| `watch` | each champion on the windows labelled since it was trained; skipped with fewer than {CARE.least_windows}, or no champion |
| `runs` | those whose recovery ratio there is below {CARE.recovery_threshold:g} and who are due; skipped if there is none |
| `retrain` | starts `retrain` for each of them; the run's note says why |

Due is who has {CARE.least_windows} of these windows that no retraining has been judged on: what the gate has refused is not asked
again until there is something new. The same champion and version of the lake start one run, however often they are looked at.
"""


@dag(
    dag_id="watch_champion",
    dag_display_name="Watch the champion",
    description="Hold champions against newly labelled windows, and retrain for those that have fallen behind.",
    schedule=tasks.cron(CARE.champion_schedule),
    tags={"sensorloop", "training"},
    doc_md=DOC,
    **tasks.DAG,
)
def watch_champion() -> None:
    """Watch, and start what is needed."""

    @task(multiple_outputs=False, execution_timeout=CARE.timeout)
    def watch() -> list[dict[str, Any]]:
        """The champions that have fallen behind: `[{"cohort", "version", "recovery_ratio", "text", …}]`."""
        behind: list[dict[str, Any]] = command("watch", *each("--cohort", RETRAIN.cohorts))["behind"]
        return behind

    @task(multiple_outputs=False)
    def runs(behind: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """For each of them that is due, the run to start; none: nothing is started."""
        return [tasks.retraining(given) for given in behind if given["due"]]

    TriggerDagRunOperator.partial(
        task_id="retrain",
        trigger_dag_id="retrain",
        logical_date=None,
        skip_when_already_exists=True,
        doc_md="Starts `retrain`, unless it was started for the same before.",
        map_index_template="{{ task.conf.cohort[0] }}",
    ).expand_kwargs(runs(watch()))


watch_champion()
