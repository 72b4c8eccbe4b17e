"""Evaluate, gate, promote with a person's word, and watch: over a real lake, with real (small) networks, MLflow's stores and the ledger."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dags import judging, retraining, runs, steps, watching, work
from dags.judging import Approval
from registry.versions import Alias
from streaming.errors import SettingsError
from tests.dags.places import Place
from tests.dags.test_work import learn
from tests.training.lakes import of_people
from tests.training.made import windows
from training.dataset import WindowSet
from training.errors import ModelError
from training.tracking import no_progress

TOWN = "[retrain]\nown_windows = 20\n[care]\nleast_windows = 20"


@pytest.fixture(scope="module")
def place(trained: tuple[Place, dict[str, Any]]) -> Place:
    return trained[0]


def train(place: Place, *arms: str, cohort: str = "target", version: int | None = 2) -> str:
    """A run key whose arms are trained."""
    settings = place.settings()
    key: str = retraining.rescore(
        settings, cohort=cohort, lake_version=version, labels_version=-1, seed=11, progress=no_progress
    )["run_key"]
    retraining.finetune(settings, run_key=key, arms=arms, progress=no_progress)
    return key


@pytest.fixture(scope="module")
def key(place: Place) -> str:
    return train(place, "filterloss", "plain", "undersampling")


def last_rules(place: Place) -> tuple[str, dict[str, dict[str, Any]]]:
    """Action and rules of the ledger's newest entry."""
    entry = steps.promotions(place.settings()).history()[-1]
    return entry.action, {rule["name"]: rule for rule in json.loads(entry.verdict or "")["rules"]}


def test_the_gate_says_what_it_finds_and_moves_nothing(place: Place, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = place.settings()
    ledger, store = steps.promotions(settings), steps.model_versions(settings, place.client())
    before, champion = ledger.history(), ledger.champion()
    seen = judging.evaluate(settings, run_key=key, arm="filterloss")
    assert seen["windows"] > 0
    assert {"candidate", "original"} <= set(seen)
    assert ("champion" in seen) == (champion is not None)
    monkeypatch.setattr(steps, "predict", None)  # what evaluate has kept need not be computed again
    found = judging.gate(settings, run_key=key, arm="filterloss")
    assert found["passed"]
    assert not found["judged"]
    assert found["champion"] == champion
    assert found["version_url"].startswith(settings.registry.tracking_uri)
    assert store.alias(Alias.CHALLENGER) == found["version"]
    assert judging.gate(settings, run_key=key, arm="filterloss") == found
    assert (ledger.history(), ledger.champion()) == (before, champion)
    assert key not in runs.judged(settings, "target"), "it has not come to its end"


def test_a_persons_word_is_a_rule_like_the_others(place: Place, key: str) -> None:
    settings = place.settings()
    approval = Approval(given=True, by="ana", why="looks right")
    done = judging.promote(settings, run_key=key, arm="filterloss", approval=approval)
    assert done["passed"]
    assert done["champion"] == done["version"]
    action, rules = last_rules(place)
    assert (action, rules["approval"]["text"]) == ("promote", "ana has approved it: looks right")
    assert key in runs.judged(settings, "target")
    assert judging.gate(settings, run_key=key, arm="filterloss")["judged"], "so that nobody is asked once more"


@pytest.fixture(scope="module")
def champion(place: Place, key: str) -> str:
    """That of ``target``: who was promoted above, where that test has run."""
    version: str = judging.promote(place.settings(), run_key=key, arm="filterloss")["champion"]
    return version


def test_a_champion_is_asked_about_windows_of_its_own_kind_alone(place: Place, champion: str) -> None:
    """MLflow's signature tells shapes apart, and these have one."""
    settings = place.settings()
    found = steps.load_windows(settings, cohort="target", version=2, labels_version=-1)
    assert len(steps.predict(settings, "", champion, found)) == len(found)
    with pytest.raises(ModelError, match=r"made for windows with rate_hz = 50\.0, and these have 25\.0"):
        steps.predict(settings, "", champion, replace(found, rate_hz=25.0))


@pytest.mark.parametrize(
    ("arm", "approval", "text"),
    [
        ("plain", Approval(given=False, by="ana", why="too few buses"), "ana has rejected it: too few buses"),
        ("undersampling", Approval(given=False, by=""), "Nobody has answered in time, which counts as no."),
    ],
)
def test_what_a_person_rejects_is_refused_for_that_reason(
    place: Place, key: str, champion: str, arm: str, approval: Approval, text: str
) -> None:
    settings = place.settings()
    assert judging.gate(settings, run_key=key, arm=arm)["passed"]
    kept = json.loads((settings.runs / key / arm / runs.EVALUATION).read_text(encoding="utf-8"))["models"]
    serves = steps.model_versions(settings, place.client()).version(champion).identity
    assert serves in kept, "a number alone may be another registered model's, or one's that was made anew"
    done = judging.promote(settings, run_key=key, arm=arm, approval=approval)
    assert (done["passed"], done["reasons"], done["champion"]) == (False, [text], champion)
    action, rules = last_rules(place)
    assert (action, rules["approval"]["passed"]) == ("refused", False)
    assert judging.promote(settings, run_key=key, arm=arm) == done, "asked again, that stands"


def test_another_order_of_cohorts_is_no_other_champion(place: Place, champion: str) -> None:
    """The first has the model without a cohort in its name: another one put first would be compared with, and served by, its champion."""
    usual, turned = place.settings(), place.settings('[retrain]\ncohorts = ["source", "target"]')
    assert steps.serving(usual, "target") == steps.serving(usual, "source") == (usual.registry.model_name, champion)
    text = f"Version {champion} of .*, its champion, was trained for cohort 'target', not for 'source'.* Put 'target' first again"
    client = place.client()
    steps.check_model_is_of(usual, client, "target")
    for look in (
        lambda: steps.serving(turned, "source"),
        lambda: steps.serving(turned, "target"),  # which has no model of its own name, so everybody's would serve
        lambda: steps.check_model_is_of(turned, client, "source"),
        lambda: watching.watch(turned, ["source"]),
    ):
        with pytest.raises(SettingsError, match=text):
            look()
    folder = turned.runs / "theirs"  # a run of the other, scored and trained
    folder.mkdir(parents=True)
    run = {"cohort": "source", "lake_version": 2, "labels_version": -1, "seed": 0, "holdout": "h"}
    (folder / runs.RUN).write_text(json.dumps(run), encoding="utf-8")
    (folder / runs.RESULTS).write_text(json.dumps({"arms": {"plain": {}}}), encoding="utf-8")
    with pytest.raises(SettingsError, match=text):
        retraining.finetune(turned, run_key="theirs", arms=("plain",), progress=no_progress)
    for step in (judging.evaluate, judging.gate, judging.promote):
        with pytest.raises(SettingsError, match=text):
            step(turned, run_key="theirs", arm="plain")
    shutil.rmtree(folder)


def mislabelled(made: WindowSet) -> WindowSet:
    return replace(made, scenes=(made.scenes + 1) % len(made.scene_names))


def test_a_cohort_of_its_own_has_a_champion_of_its_own_that_is_watched(place: Place) -> None:
    settings, part = place.settings(TOWN), "town/phone_model=Pixel 8"
    everybodys = steps.promotions(settings).champion()
    version = place.publish(of_people("town", windows(people=6, each=4)), cohort="town", phone="Pixel 8")
    assert [pin.cohort for pin in work.work(settings, ["town/phone_model=*"], min_windows=1).pins] == [part]
    (seen,) = watching.watch(settings, [part])
    assert (seen.version, seen.recovery_ratio, seen.behind) == (None, None, False)
    assert "no champion of its own: everybody's serves it" in seen.text
    assert steps.serving(settings, part) == (settings.registry.model_name, everybodys)
    key = train(place, "filterloss", cohort=part, version=version)
    done = judging.promote(settings, run_key=key, arm="filterloss")
    own = (steps.model_name(settings, part), done["version"])
    assert steps.serving(settings, part) == own
    assert steps.promotions(settings).champion() == everybodys, "which is not everybody's"
    assert work.pin(settings, part).fresh == 0

    (seen,) = watching.watch(settings, [part])
    assert (seen.version, seen.windows, seen.recovery_ratio) == (done["version"], 0, None)
    assert seen.text.endswith("20 more are needed.")
    place.publish(of_people("right", windows(people=2, each=5, seed=8)), cohort="town", phone="Pixel 8")
    (seen,) = watching.watch(settings, [part])
    assert (seen.windows, seen.behind) == (30, False)
    assert seen.recovery_ratio is not None
    assert seen.recovery_ratio > 0.8
    place.publish(mislabelled(of_people("wrong", windows(people=4, each=8, seed=9))), cohort="town", phone="Pixel 8")
    (seen,) = watching.watch(settings, [part])
    assert (seen.windows, seen.behind) == (30 + 96, True)
    assert "below [care] recovery_threshold = 0.75: it has fallen behind." in seen.text
    assert np.isclose(seen.recovery_ratio or 0, float(seen.text.split("recovery ratio ")[1].split(",")[0]), atol=1e-3)

    assert seen.due
    learn(settings, work.pin(settings, part))  # stands for a retraining that the gate has refused
    (seen,) = watching.watch(settings, [part])
    assert (seen.behind, seen.due) == (True, False), "the same windows would ask the holdout the same once more"
    assert seen.text.endswith(
        "learned from all but 0 of them and were judged: another is due when 20 more are labelled."
    )
    assert work.work(settings, [part], min_windows=20).pins == (), "and a run that was started before does nothing"
    place.publish(mislabelled(of_people("later", windows(people=2, each=4, seed=10))), cohort="town", phone="Pixel 8")
    (seen,) = watching.watch(settings, [part])
    assert (seen.behind, seen.due) == (True, True)
