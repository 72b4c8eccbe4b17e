"""The DAG ``maintain_lake``: small files into large ones, files that nothing needs away, and a proof of what is left."""

# mypy: disable-error-code="misc,untyped-decorator"
# (Airflow's own types are not followed: reading them takes longer than reading all of ours.)
from __future__ import annotations

from typing import Any

from airflow.sdk import chain, dag, task

from dags import tasks
from dags.tasks import SETTINGS, command

CARE = SETTINGS.care
DOC = f"""
### Keeps the lake quick, small and proven

| task | what it does |
|---|---|
| `compact` | merges the small files of each day; rows stay the same |
| `vacuum` | deletes files that no version of the last {SETTINGS.lake.vacuum_retention} needs |
| `verify` | proves it: files whole, every offset accounted for once, no window or label twice; a problem fails it at once, a line each |

Safe beside ingestion, retraining and itself, at any crash. `verify` also looks when one of the others has failed.
"""


@dag(
    dag_id="maintain_lake",
    dag_display_name="Maintain the lake",
    description="Compact, vacuum and prove the lake.",
    schedule=tasks.cron(CARE.lake_schedule),
    tags={"sensorloop", "lake"},
    doc_md=DOC,
    **tasks.DAG,
)
def maintain_lake() -> None:
    """One after the other."""

    @task(multiple_outputs=False, execution_timeout=CARE.timeout)
    def compact() -> dict[str, Any]:
        """Small files of each day into large ones."""
        return command("lake", "compact")

    @task(multiple_outputs=False, execution_timeout=CARE.timeout)
    def vacuum() -> dict[str, Any]:
        """Files away that no version within the retention needs."""
        return command("lake", "vacuum")

    @task(multiple_outputs=False, execution_timeout=CARE.timeout, trigger_rule="all_done")
    def verify() -> dict[str, Any]:
        """The proof of what is left."""
        return command("lake", "verify")

    chain(compact(), vacuum(), verify())


maintain_lake()
