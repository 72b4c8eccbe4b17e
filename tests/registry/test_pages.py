"""Addresses of MLflow's pages, and the text of a run above others. What they look like: test_pages_in_browser.py."""

from __future__ import annotations

import json
from typing import Any
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


def cohort(name: str, **arms: float) -> dict[str, Any]:
    return {
        "cohort": name, "run_id": "r9" if arms else None, "trained": "here" if arms else "–",
        "arms": {arm: {"recovery_ratio": ratio} for arm, ratio in arms.items()},
        "outcome": "plain refused, version 3" if arms else "not trained", "reasons": ["It is 0.1 below."] if arms else [],
    }  # fmt: skip


def rows(text: str) -> list[list[str]]:
    """Cells of a table, without what is not seen."""
    lines = [line for line in text.replace("&emsp;", "").splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" |")] for line in lines]


def test_a_dag_runs_cohorts_are_rows_whatever_arms_each_has() -> None:
    found = [cohort("a", original=0.6, plain=0.8), cohort("b"), cohort("c|d", filterloss=0.95)]
    text = pages.dag_run_text("7", found, about="It has ended.")
    assert text.splitlines()[0] == "It has ended."
    head, *cells = rows(text)
    assert head == ["cohort", "original", "plain", "filterloss", "verdict", "trained"]
    assert cells[0][1:] == ["0.600", "0.800", "–", "plain refused, version 3", "here"]
    assert cells[1] == ["b", "–", "–", "–", "not trained", "–"]
    assert cells[2][0].startswith(r"[c\|d](#/experiments/7/runs/r9?")
    assert text.splitlines()[-2:] == ["- a: It is 0.1 below.", "- c|d: It is 0.1 below."]


def test_many_cohorts_are_as_many_rows_as_mlflow_takes() -> None:
    text = pages.dag_run_text("7", [cohort(f"town/subject_id=p{n}", plain=0.8) for n in range(300)], about="It.")
    assert 7000 < len(text) <= 8000
    shown = len(rows(text)) - 1
    assert text.endswith(f"{300 - shown} more cohorts, and the reasons, are in `runs.json`.")
    reasons = {**cohort("a", plain=0.8), "reasons": ["Because. " * 20] * 60}
    text = pages.dag_run_text("7", [reasons], about="It.")
    assert len(rows(text)) == 2
    assert text.endswith("The reasons are in `runs.json`.")
