"""What became of a run, arm by arm, in the folder of its run key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dags import runs
from dags.settings import Settings, load


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load({"SENSORLOOP_HOME": str(tmp_path)})


def scored(settings: Settings, key: str, cohort: str) -> Path:
    """A run's folder."""
    folder = settings.runs / key
    folder.mkdir(parents=True)
    (folder / runs.RUN).write_text(json.dumps({"cohort": cohort}), encoding="utf-8")
    return folder


def test_each_arm_has_a_verdict_of_its_own(settings: Settings) -> None:
    folder = scored(settings, "k1", "target")
    scored(settings, "k2", "target")
    other = scored(settings, "k3", "town")
    assert runs.judged(settings, "target") == []
    assert runs.verdict(folder, "plain") is None
    runs.judge(folder, "plain", passed=True, version="1")
    runs.judge(other, "plain", passed=True, version="1")
    assert runs.verdict(folder, "filterloss") is None
    runs.judge(folder, "filterloss", passed=False, version="2")
    assert runs.verdict(folder, "plain") == {"passed": True, "version": "1"}
    assert runs.verdict(folder, "filterloss") == {"passed": False, "version": "2"}
    assert runs.judged(settings, "target") == ["k1"]


def test_a_run_from_when_all_arms_had_one_file(settings: Settings) -> None:
    folder = scored(settings, "k1", "target")
    (folder / runs.JUDGED).write_text(json.dumps({"arm": "plain", "passed": True}), encoding="utf-8")
    assert runs.judged(settings, "target") == ["k1"]
    assert runs.verdict(folder, "plain") == {"arm": "plain", "passed": True}
    assert runs.verdict(folder, "filterloss") is None
    runs.judge(folder, "plain", passed=False)
    assert runs.verdict(folder, "plain") == {"passed": False}
    assert runs.judged(settings, "target") == ["k1"]
