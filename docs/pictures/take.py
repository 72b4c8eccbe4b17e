"""Takes this folder's pictures of a demo that is up: run it while ``make demo`` waits for Ctrl-C.

    SENSORLOOP_HOME=var/demo SENSORLOOP_CONFIG=var/demo/sensorloop.toml .venv/bin/python docs/pictures/take.py [FOLDER]

Needs a Chromium (``sudo apt-get install chromium``). Addresses, and the password of Airflow's user, are those of the settings. The newest
retraining is shown. Pictures are PNG, 1600 pixels wide.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from dags.local import configuration
from dags.settings import Settings, load
from dags.steps import mlflow_client, model_versions
from registry import pages

_OPTIONS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
_WIDTH, _HEIGHT = 1600, 1000
_SETTLE_MS = 2000
"""After the last thing that was waited for: charts and graphs move into place, and do not say when they are done."""
_LESS, _MORE = ("Dataset", "Source"), ("recovery_ratio", "target/accuracy", "target/macro_f1")
"""Columns of the list of runs that are taken out, and put in."""
_DAG = "retrain"


class _Camera:
    """A tab, and where its pictures go."""

    def __init__(self, page: Page, folder: Path) -> None:
        self.page = page
        self._folder = folder

    def go(self, address: str, *, height: int = _HEIGHT) -> None:
        """Open a page afresh: from one address to another that differs behind the # only, nothing would be loaded."""
        self.page.goto("about:blank")
        self.page.set_viewport_size({"width": _WIDTH, "height": height})
        self.page.goto(address)

    def shoot(self, name: str) -> None:
        self.page.mouse.move(_WIDTH - 2, 2)  # no tooltip, no highlighted row
        self.page.wait_for_timeout(_SETTLE_MS)
        path = self._folder / f"{name}.png"
        self.page.screenshot(path=path)
        sys.stdout.write(f"{path}\n")


def mlflow(camera: _Camera, settings: Settings) -> None:
    """The newest retraining: its run, its arms in the list, as charts and side by side; the model and its newest version."""
    client, page, url = mlflow_client(settings), camera.page, settings.registry.tracking_uri
    experiment = client.get_experiment_by_name(settings.registry.retrain_experiment)
    versions = model_versions(settings, client).versions()
    if experiment is None or not versions:
        sys.exit(f"MLflow at {url} knows of no retraining yet.")
    number, name = experiment.experiment_id, settings.registry.model_name
    by_time, by_recovery = ["attributes.start_time DESC"], ["metrics.recovery_ratio DESC"]
    cohort = f"attributes.run_name = '{settings.retrain.cohorts[0]}'"
    parent = client.search_runs([number], cohort, max_results=1, order_by=by_time)[0].info
    arms = client.search_runs([number], f"tags.mlflow.parentRunId = '{parent.run_id}'", order_by=by_recovery)

    def see(address: str, *, height: int = _HEIGHT) -> None:
        camera.go(f"{url}/{address}", height=height)

    see(pages.run_page(number, parent.run_id))
    page.get_by_role(
        "button", name="Close"
    ).click()  # MLflow's assistant takes a quarter of each page, until it is told
    page.get_by_text("Show more").click()
    camera.shoot("mlflow-retraining")

    see(pages.runs_page(number), height=600)
    page.get_by_role("gridcell").get_by_role("button").first.click()  # the plus before the newest DAG run's name
    page.get_by_role("gridcell").get_by_role("button").nth(1).click()  # and that before its first cohort's
    page.get_by_role("button", name="Columns", exact=True).click()
    menu = page.get_by_role("dialog")
    for column in (*_LESS, *_MORE):
        page.get_by_placeholder("Search columns").fill(column)
        node = menu.locator("[class*=tree-treenode]").filter(has_text=re.compile(f"^{column}$"))
        node.locator("[class*=tree-checkbox]").first.click()
    page.keyboard.press("Escape")
    camera.shoot("mlflow-runs")

    see(f"{pages.runs_page(number)}&compareRunsMode=CHART")  # the newest run is still unfolded
    page.get_by_placeholder("Search metric charts").fill("^(target/(accuracy|macro_f1)$|recovery_ratio|validation)")
    camera.shoot("mlflow-charts")

    see(pages.comparison_page(number, [arm.info.run_id for arm in arms]))
    page.get_by_text("Visualizations", exact=True).click()  # folded: with one metric, that plot is empty
    camera.shoot("mlflow-comparison")

    see(pages.model_page(name), height=800)
    page.get_by_text("Version 1", exact=True).wait_for()
    camera.shoot("mlflow-model")

    see(pages.version_page(name, versions[-1].version))
    page.get_by_text("validation_status").wait_for()
    camera.shoot("mlflow-version")


def airflow(camera: _Camera, settings: Settings) -> None:
    """The newest run of the DAG: its tasks beside the grid, and beside the graph."""
    page, url = camera.page, configuration.url(settings.airflow)
    password = json.loads(configuration.password_file(settings.home).read_text(encoding="utf-8"))[configuration.USER]
    camera.go(f"{url}/dags/{_DAG}", height=700)
    page.get_by_label("Username").fill(configuration.USER)
    page.get_by_label("Password", exact=True).fill(password)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("heading", name="Latest Run").wait_for()
    page.get_by_role("heading", name="Latest Run").locator("..").get_by_role("link").click()
    page.get_by_text("Task Instances").first.wait_for()
    camera.shoot("airflow-run")
    page.get_by_role("button", name="Show Graph").click()
    camera.shoot("airflow-graph")


def main() -> None:
    """Take them all."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    folder.mkdir(parents=True, exist_ok=True)
    settings = load()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, headless=True, args=list(_OPTIONS))
        page = browser.new_page(viewport={"width": _WIDTH, "height": _HEIGHT}, locale="en-GB", timezone_id="UTC")
        camera = _Camera(page, folder)
        mlflow(camera, settings)
        airflow(camera, settings)
        browser.close()


if __name__ == "__main__":
    main()
