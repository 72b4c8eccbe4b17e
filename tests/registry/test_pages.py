"""Addresses of MLflow's pages, and the text of a run above others. What they look like: test_pages_in_browser.py."""

from __future__ import annotations

import json
from urllib.parse import parse_qs

from registry import pages

ARMS = {
    "plain": {"run_id": "r1", "recovery_ratio": 0.8, "accuracy": 0.7, "macro_f1": 0.6},
    "filterloss": {"run_id": "r2", "recovery_ratio": 0.95, "accuracy": 0.83, "macro_f1": 0.81},
}


def test_runs_are_compared_in_the_order_given() -> None:
    path, _, query = pages.comparison_page("7", ["b", "a"]).partition("?")
    assert path == "#/compare-runs"
    asked = parse_qs(query)
    assert [json.loads(asked[name][0]) for name in ("runs", "experiments")] == [["b", "a"], ["7"]]


def test_a_name_with_a_space_is_an_address() -> None:
    assert pages.model_page("scene recogniser").startswith("#/models/scene%20recogniser?")
    assert pages.version_page("a b", "3").startswith("#/models/a%20b/versions/3?")


def test_the_best_arm_comes_first_and_the_picture_is_the_runs_own() -> None:
    text = pages.comparison_text("7", "above", ARMS, about="Cohort target.")
    assert text.startswith("Cohort target. [Compare the arms](#/compare-runs?")
    rows = [line.replace("&emsp;", "") for line in text.splitlines() if line.startswith(("| filterloss", "| plain"))]
    assert rows == ["| filterloss | 0.950 | 0.830 | 0.810 |", "| plain | 0.800 | 0.700 | 0.600 |"]
    assert "](get-artifact?path=comparison.png&run_uuid=above)" in text
