"""What a person does in Airflow's pages with a run that waits for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dags.local.standalone import LocalAirflow

if TYPE_CHECKING:
    from playwright.sync_api import Page


def look_at_it_and_approve(page: Page, airflow: LocalAirflow, run_id: str) -> None:
    """Log in, see the run's graph with every step, open what is asked for the first cohort, and say yes with a reason."""
    raise NotImplementedError
