"""What a person does in Airflow's pages with a run that waits for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dags.local.standalone import LocalAirflow

if TYPE_CHECKING:
    from playwright.sync_api import Page


def look_at_it_and_approve(page: Page, airflow: LocalAirflow, run_id: str) -> None:
    """Log in, see the run's graph with every step, open what is asked for the first cohort, and say yes with a reason."""
    import json, time
    def dump(tag):
        print("#####", tag, page.url)
        for b in page.query_selector_all("button"):
            print("  B", repr((b.inner_text() or "")[:40]), b.get_attribute("aria-label"), b.get_attribute("title"), b.get_attribute("data-testid"))
        page.screenshot(path=f"/tmp/ag{tag}.png")
    page.goto(f"{airflow.url}/dags/retrain/runs/{run_id}")
    pw = json.loads(airflow.password_file.read_text())["admin"]
    page.get_by_label("Username").fill("admin")
    page.get_by_label("Password").fill(pw)
    page.get_by_role("button", name="Sign in").click()
    time.sleep(8)
    dump("1")
    try:
        page.get_by_role("button", name="Graph").first.click(timeout=4000)
    except Exception as e:
        print("GRAPH", e)
        try: page.locator("button[value=graph]").click(timeout=4000)
        except Exception as e: print(e)
    time.sleep(6); dump("2")
    for name in ("Expand all task groups", "Expand all", "expand"):
        try:
            page.get_by_role("button", name=name).first.click(timeout=3000); break
        except Exception as e: print("EXPAND", e)
    time.sleep(6); dump("3")
    print(page.inner_text("body")[:1500])
    page.goto(f"{airflow.url}/dags/retrain/runs/{run_id}/tasks/cohort.approve/mapped/0/required_actions")
    time.sleep(8); dump("4")
    print(page.inner_text("body")[:2500])
    for sel in ("textarea", "input"):
        for b in page.query_selector_all(sel): print(sel, b.get_attribute("name"), b.get_attribute("id"), b.get_attribute("placeholder"), b.input_value() if sel != "input" or b.get_attribute("type")!="checkbox" else "")
    try:
        page.locator("[name=element_why]").fill("looks right", timeout=4000)
    except Exception as e: print("WHY", e)
    page.get_by_role("button", name="Approve").click()
    time.sleep(5); dump("5")
    print(page.inner_text("body")[:1500])
