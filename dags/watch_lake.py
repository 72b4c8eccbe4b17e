"""The DAG ``watch_lake``: looks whether enough labelled windows are new, and if so wakes ``retrain``."""

# mypy: disable-error-code="misc,untyped-decorator"
# (Airflow's own types are not followed: reading them takes longer than reading all of ours.)
from __future__ import annotations

from typing import Any

from airflow.sdk import dag, task

from dags import tasks
from dags.tasks import ENOUGH, RETRAIN, command, each

DOC = f"""
### Wakes `retrain` when enough labelled windows are new

`look` counts what is new for {", ".join(f"`{name}`" for name in RETRAIN.cohorts)}. With fewer than {RETRAIN.min_windows} it is
skipped, and its log says how much is missing; otherwise it updates the asset `labelled-windows`, which `retrain` listens to.

The event carries no work: `retrain` asks the lake. So an event may be lost (the next look sends another), doubled, or come while a
retraining runs (the next one then finds nothing new, and is skipped).
"""


@dag(
    dag_id="watch_lake",
    dag_display_name="Watch the lake",
    description="Look whether enough labelled windows are new, and wake 'retrain'.",
    schedule=tasks.cron(RETRAIN.look_every),
    tags={"sensorloop", "lake"},
    doc_md=DOC,
    **tasks.DAG,
)
def watch_lake() -> None:
    """One look."""

    @task(multiple_outputs=False, outlets=[ENOUGH])
    def look(*, outlet_events: Any) -> list[dict[str, Any]]:
        """The cohorts with enough that is new; skipped if there is none, and then nobody is woken."""
        found = command("lake", "pin", *each("--cohort", RETRAIN.cohorts), "--min-windows", str(RETRAIN.min_windows))
        cohorts: list[dict[str, Any]] = found["cohorts"]
        outlet_events[ENOUGH].extra = {given["cohort"]: given["fresh"] for given in cohorts}
        return cohorts

    look()


watch_lake()
