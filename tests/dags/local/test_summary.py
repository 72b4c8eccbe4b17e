from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from dags.local import summary
from dags.settings import load
from tests.training.lakes import publish
from tests.training.made import windows

ACCOUNT = {"sent": 123456, "lost": 0, "doubled": 0, "windows": 15}
ORIGINAL = {"source_accuracy": 0.8, "source_macro_f1": 0.79, "version": "1"}
PROMOTED = {"passed": True, "version": "2", "champion": "2", "reasons": ["Recovery is 0.95, 0.05 above the threshold."]}


def arm(accuracy: float) -> dict[str, Any]:
    return {
        "accuracy": accuracy, "macro_f1": accuracy - 0.05, "recovery_ratio": accuracy / 0.8, "seconds": 3.0, "run_id": "r",
        "details": {},
    }  # fmt: skip


@pytest.fixture
def collected(tmp_path: Path) -> dict[str, Any]:
    return collect(tmp_path)


def collect(folder: Path, promoted: dict[str, Any] | None = None, source_accuracy: float = 0.8) -> dict[str, Any]:
    settings = load({"SENSORLOOP_HOME": str(folder), "SENSORLOOP_CONFIG": "/dev/null"})
    publish(folder / "lake", windows(people=2, each=2), cohort="source")
    publish(folder / "lake", replace(windows(people=1, each=1), devices=windows(people=1, each=1).subjects))
    arms = {"original": arm(0.6), "plain": arm(0.5), "filterloss": arm(0.76)}
    (folder / "results.json").write_text(json.dumps({"arms": arms}), encoding="utf-8")
    return summary.collect(
        settings,
        account=ACCOUNT,
        original={**ORIGINAL, "source_accuracy": source_accuracy},
        answers={"finetune": {"results": str(folder / "results.json")}, "promote": promoted or PROMOTED},
        seconds={"broker": 4.2, "demo": 300.0},
    )


def shown(found: dict[str, Any]) -> list[str]:
    console = Console(file=io.StringIO(), width=200)
    summary.show(console, found, file=Path("var/demo/summary.json"))
    return [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


def test_it_has_what_issue_and_scripts_expect(collected: dict[str, Any]) -> None:
    assert collected == {
        "windows": {"source": 12, "target": 3},
        "samples": {"sent": 123456, "lost": 0, "doubled": 0},
        "original": {"source_accuracy": 0.8, "target_accuracy": 0.6, "target_macro_f1": pytest.approx(0.55)},
        "arms": {
            "plain": {"accuracy": 0.5, "macro_f1": pytest.approx(0.45), "recovery_ratio": pytest.approx(0.625)},
            "filterloss": {"accuracy": 0.76, "macro_f1": pytest.approx(0.71), "recovery_ratio": pytest.approx(0.95)},
        },
        "verdict": {"passed": True, "reasons": PROMOTED["reasons"]},
        "champion": {"name": "scene-recogniser", "version": "2"},
        "seconds": {"broker": 4.2, "demo": 300.0},
    }
    json.dumps(collected, allow_nan=False)


def test_people_see_every_number_the_best_arm_first(collected: dict[str, Any]) -> None:
    lines = shown(collected)
    text = "\n".join(lines)
    assert "12 of source, 3 of target" in text
    assert "123,456 sent, 0 lost, 0 doubled" in text
    assert "accuracy 0.800 at home, 0.600 on the new phones as it is" in text
    rows = [line.split() for line in lines if line.strip().startswith(("original, as", "plain", "filterloss"))]
    assert rows == [
        ["original,", "as", "it", "is", "0.600", "0.550", "0.750"],
        ["filterloss", "0.760", "0.710", "0.950"],
        ["plain", "0.500", "0.450", "0.625"],
    ]
    assert "passed" in text
    assert PROMOTED["reasons"][0] in text
    assert "scene-recogniser version 2" in text
    assert "broker 4, demo 300" in text
    assert lines[-1] == "All of it is in var/demo/summary.json"


def test_a_refusal_without_a_champion(tmp_path: Path) -> None:
    reasons = ["Recovery is 0.70, 0.20 below the threshold.", "It is worse than the original model by 0.01."]
    found = collect(tmp_path, {"passed": False, "version": "2", "champion": None, "reasons": reasons})
    text = "\n".join(shown(found))
    assert "refused" in text
    assert all(reason in text for reason in reasons)
    assert "scene-recogniser version –" in text


def test_an_original_model_that_got_nothing_right(tmp_path: Path) -> None:
    rows = [line.split() for line in shown(collect(tmp_path, source_accuracy=0.0)) if "as it is" in line]
    assert rows[-1][-1] == "nan"
