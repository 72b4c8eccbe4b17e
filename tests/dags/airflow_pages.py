"""What a person sees and does in Airflow's pages when a run waits for them."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

from dags.local.standalone import LocalAirflow
from tests.dags.standing_in import REASON
from tests.fixtures.browser import keep

if TYPE_CHECKING:
    from playwright.sync_api import Page

_PATIENCE_MS = 30_000


def look_at_it_and_approve(page: Page, airflow: LocalAirflow, run_id: str) -> None:
    """Log in, see the run's graph with every step, open what is asked for the first cohort, and say yes with a reason."""
    from playwright.sync_api import expect  # noqa: PLC0415

    run = f"{airflow.url}/dags/retrain/runs/{run_id}"
    page.goto(run)
    page.get_by_label("Username").fill(airflow.user)
    password = json.loads(airflow.password_file.read_text(encoding="utf-8"))[airflow.user]
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()
    _wait_for(page, "Required Actions")
    page.get_by_role("button", name="Show Graph").click()
    page.get_by_role("button", name="Expand all task groups").click()
    steps = ("rescore", "finetune", "evaluate", "gate", "approve", "promote")
    nodes = page.locator(".react-flow__node")
    for task in (
        "pin",
        "open_run",
        "make_room",
        "shards",
        "embed [2]",
        *(f"{step} [0]" for step in steps),
        "clear_room",
        "close_run",
    ):
        expect(nodes.filter(has_text=task).last).to_be_visible(timeout=_PATIENCE_MS)
    expect(nodes.filter(has_text="approve").last).to_contain_text("awaiting_input", timeout=_PATIENCE_MS)
    page.get_by_role("button", name="Collapse Details Panel").click()
    page.get_by_role("button", name="Fit View").click()
    keep(page, "airflow-graph")
    page.goto(f"{run}/tasks/cohort.approve/mapped/0/required_actions")
    _wait_for(page, "Make version 2 champion of cohort city?")
    expect(page.get_by_text(REASON)).to_be_visible(timeout=_PATIENCE_MS)
    expect(page.get_by_role("link", name="The version in MLflow")).to_be_visible(timeout=_PATIENCE_MS)
    expect(page.locator("[name=element_cohort]")).to_have_count(0)  # only the reason is asked for
    page.locator("[name=element_why]").fill("looks right")
    keep(page, "airflow-approval")
    page.get_by_test_id("hitl-option-Approve").click()
    expect(page.get_by_text("Response received at")).to_contain_text(f"from {airflow.user}", timeout=_PATIENCE_MS)


def _wait_for(page: Page, text: str) -> None:
    """Until it is there; loaded anew if need be: on a busy machine the page gives up on parts of itself."""
    from playwright.sync_api import expect  # noqa: PLC0415

    for _ in range(3):
        with contextlib.suppress(AssertionError):
            expect(page.get_by_text(text).first).to_be_visible(timeout=_PATIENCE_MS)
            return
        page.reload()
    expect(page.get_by_text(text).first).to_be_visible(timeout=_PATIENCE_MS)
