"""What a person does in Airflow's pages with a run that waits for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dags.local.standalone import LocalAirflow

if TYPE_CHECKING:
    from playwright.sync_api import Page


def look_at_it_and_approve(page: Page, airflow: LocalAirflow, run_id: str) -> None:
    """Log in, see the run's graph with every step, open what is asked for the first cohort, and say yes with a reason."""
    import json, time

    page.goto(f"{airflow.url}/dags/retrain/runs/{run_id}")
    time.sleep(6)
    print(page.url)
    print(page.inner_text("body")[:1500])
    page.screenshot(path="/tmp/af0.png")
    pw = json.loads(airflow.password_file.read_text())["admin"]
    try:
        page.get_by_label("Username").fill("admin")
        page.get_by_label("Password").fill(pw)
        page.get_by_role("button", name="Sign in").click()
    except Exception as e:
        print("LOGIN", e)
    time.sleep(8)
    print(page.url)
    print(page.inner_text("body")[:3000])
    page.screenshot(path="/tmp/af1.png")
    for name, where in {
        "2": f"/dags/retrain/runs/{run_id}/tasks/cohort.approve/mapped/0",
        "3": f"/dags/retrain/runs/{run_id}/tasks/cohort.approve/mapped/0/required_actions",
        "4": f"/dags/retrain/runs/{run_id}/required_actions",
    }.items():
        page.goto(airflow.url + where)
        time.sleep(6)
        print("=====", page.url)
        print(page.inner_text("body")[:2500])
        page.screenshot(path=f"/tmp/af{name}.png")
