"""What a person sees of a retraining in MLflow's pages: a real server, looked at with a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from registry import pages
from registry.connection import connect
from registry.settings import RegistrySettings
from tests.fixtures.browser import keep
from tests.registry.retraining import (
    ABOUT,
    AIRFLOW,
    COHORT,
    DAG_RUN,
    KEY,
    NOTE,
    OUTCOME,
    SCENES,
    Retraining,
    log_retraining,
)  # fmt: skip
from tests.registry.servers import local_server

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

pytestmark = [pytest.mark.browser, pytest.mark.slow]
MODEL = RegistrySettings().model_name


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """A server, and what was logged to it."""

    url: str
    what: Retraining

    def open(self, page: Page, address: str) -> None:
        """Go there, and close what lies beside it."""
        page.goto(f"{self.url}/{address}")
        page.get_by_role("button", name="Close").click()  # MLflow's assistant takes a quarter of the page


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    home = tmp_path_factory.mktemp("home")
    with local_server(home) as server:
        settings = RegistrySettings(port=int(server.url.rpartition(":")[2])).resolved(home)
        yield Shown(url=server.url, what=log_retraining(connect(settings.tracking_uri), settings))


def sees(page: Page, *texts: str) -> None:
    """Each of the texts is on the page for a person to see, perhaps after scrolling."""
    from playwright.sync_api import expect  # noqa: PLC0415

    for text in texts:
        expect(page.get_by_text(text, exact=True).first).to_be_visible(timeout=30_000)


def is_a_picture(image: Locator) -> None:
    """The browser has got it and can show it."""
    image.scroll_into_view_if_needed()
    assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") > 300


def digits(value: float) -> str:
    """As MLflow's comparison shows it."""
    return f"{round(value, 3):g}"


def test_the_runs_of_the_experiment(shown: Shown, page: Page) -> None:
    from playwright.sync_api import expect  # noqa: PLC0415

    shown.open(page, pages.runs_page(shown.what.experiment))
    sees(page, NOTE, "retrain", "7 matching runs")
    assert page.get_by_text("windows@17").count() >= 1
    page.get_by_role("gridcell").get_by_role("button").first.click()  # the plus before the name
    sees(page, COHORT)
    expect(page.get_by_text("plain", exact=True)).to_have_count(0)
    page.get_by_role("row").filter(has=page.get_by_role("link", name=COHORT, exact=True)).get_by_role(
        "button"
    ).first.click()
    sees(page, "retrain", COHORT, *shown.what.arms)
    keep(page, "three-levels")


def test_the_run_of_a_dag_run_leads_to_its_cohorts_and_to_airflow(shown: Shown, page: Page) -> None:
    shown.open(page, pages.run_page(shown.what.experiment, shown.what.dag_run))
    sees(
        page,
        "retrain",
        "Finished",
        "windows@17 (dddddddddddddddd)",
        f"{COHORT}/recovery_ratio",
    )
    sees(page, "dag_run_id", "airflow_url", f"run_key.{COHORT}")
    show_more = page.get_by_text("Show more")
    if show_more.count():
        show_more.click()
    sees(page, "not trained", OUTCOME, *(f"{value:.3f}" for value in shown.what.recovery.values()))
    assert page.get_by_role("link", name=DAG_RUN.run_id).get_attribute("href") == AIRFLOW
    keep(page, "dag-run")
    with page.expect_popup() as opened:
        page.get_by_role("link", name=COHORT, exact=True).first.click()
    sees(opened.value, "Compare the arms")


def test_from_the_run_above_to_the_comparison_of_its_arms(shown: Shown, page: Page) -> None:
    shown.open(page, pages.run_page(shown.what.experiment, shown.what.parent))
    sees(page, "retrain", COHORT, "windows@17 (dddddddddddddddd)")
    text = page.inner_text("body")
    assert ABOUT in text
    assert f"run_key\n: {KEY}" in text
    page.get_by_text("Show more").click()
    sees(page, *(f"{value:.3f}" for value in shown.what.recovery.values()))
    is_a_picture(page.locator("img[src*='comparison.png']"))
    with page.expect_popup() as opened:
        page.get_by_role("link", name="Compare the arms").click()

    comparison = opened.value
    sees(comparison, "Comparing 5 Runs from 1 Experiment", *shown.what.arms)
    sees(comparison, "target/macro_f1", "recovery_ratio", *(f"target/recall/{scene}" for scene in SCENES))
    for arm, result in shown.what.results.items():
        sees(comparison, digits(result.accuracy), digits(result.macro_f1), digits(shown.what.recovery[arm]))
    keep(comparison, "comparison")


def test_the_run_of_an_arm(shown: Shown, page: Page) -> None:
    experiment, run, result = shown.what.experiment, shown.what.arms["filterloss"], shown.what.results["filterloss"]
    shown.open(page, pages.run_page(experiment, run))
    sees(page, "filterloss", COHORT, "Finished", "windows@17 (dddddddddddddddd)")
    sees(page, "loss", "target/accuracy", str(result.accuracy), "target/macro_f1", str(result.macro_f1))
    sees(page, "recovery_ratio", str(shown.what.recovery["filterloss"]), *(f"target/recall/{s}" for s in SCENES))


def test_the_pictures_of_an_arm(shown: Shown, page: Page) -> None:
    run = shown.what.arms["filterloss"]
    shown.open(page, pages.artifact_page(shown.what.experiment, run, "tiers.png"))
    sees(page, "choices.json", "confusion.png", "tiers.png")
    is_a_picture(page.locator("img[src^='blob:'], img[src*='get-artifact']").first)
    page.get_by_text("confusion.png", exact=True).first.click()
    is_a_picture(page.locator("img[src^='blob:'], img[src*='get-artifact']").first)


def test_the_model_and_its_versions(shown: Shown, page: Page) -> None:
    shown.open(page, pages.model_page(MODEL))
    sees(page, MODEL, "Version 1", "@ champion", "validation_status", "policy", "recovery_ratio")
    assert page.get_by_text("Recognises the scene of a phone").is_visible()
    assert page.get_by_text("filterloss: recovery").first.is_visible()


def test_the_version_that_is_champion(shown: Shown, page: Page) -> None:
    shown.open(page, pages.version_page(MODEL, shown.what.version))
    sees(page, "Version 1", "@ champion", shown.what.description, "filterloss")
    sees(page, "validation_status", "passed", "run_key", KEY, "lake_version", "17", "ledger_entry")
    verdict = page.get_by_text("is 0.964, 0.064 above the threshold 0.9").first
    verdict.scroll_into_view_if_needed()
    assert verdict.is_visible()
