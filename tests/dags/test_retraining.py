"""Rescore, fine-tune, promote: over a real lake, with a real (small) network, and MLflow's real stores and the ledger."""

from __future__ import annotations

import fcntl
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from dags import judging, retraining, steps
from dags.holdout import holdouts
from dags.settings import Settings
from registry.errors import ModelError
from registry.versions import Alias
from streaming.lake import read_quality, table_version
from tests.dags.places import Place
from tests.training.lakes import of_people
from tests.training.made import windows
from training.errors import MissingScene, RunError, SettingsError, TooFewLabels, TooFewSubjects
from training.original import OriginalModel
from training.tracking import no_progress

ARMS = ("plain", "filterloss")


@pytest.fixture(scope="module")
def place(trained: tuple[Place, dict[str, Any]]) -> Place:
    return trained[0]


@pytest.fixture(scope="module")
def scored(place: Place) -> dict[str, Any]:
    return rescore(place.settings())


@pytest.fixture(scope="module")
def tuned(place: Place, scored: dict[str, Any]) -> dict[str, Any]:
    return finetune(place.settings(), scored["run_key"])


@pytest.fixture(scope="module")
def promoted(place: Place, tuned: dict[str, Any]) -> dict[str, Any]:
    return judging.promote(place.settings(), run_key=tuned["run_key"], arm="filterloss")


def rescore(settings: Settings, *, cohort: str = "target", version: int | None = 2, seed: int = 0) -> dict[str, Any]:
    """At version 2 the lake has the first 108 windows of the target."""
    return retraining.rescore(settings, cohort=cohort, lake_version=version, seed=seed, progress=no_progress)


def finetune(settings: Settings, run_key: str, *arms: str) -> dict[str, Any]:
    return retraining.finetune(settings, run_key=run_key, arms=arms or ARMS, progress=no_progress)


def runs_of(place: Place) -> dict[str, Any]:
    """MLflow's runs of retraining, by id."""
    client = place.client()
    experiment = client.get_experiment_by_name(place.settings().registry.retrain_experiment)
    return {run.info.run_id: run for run in client.search_runs([experiment.experiment_id])}


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    }


def test_every_labelled_window_has_a_score(place: Place, scored: dict[str, Any]) -> None:
    uri, key = place.settings().lake.uri, scored["run_key"]
    rows = read_quality(uri, key)
    assert rows.height == scored["scored"] == 108
    assert sum(scored["tiers"].values()) == 108
    assert rows["score"].is_between(0, 1).all()
    assert rows["window_id"].n_unique() == 108
    assert set(rows["label"].to_list()) == {"Run", "Still", "Walk"}
    assert rows["lake_version"].unique().to_list() == [2]
    assert rows["model"].unique().to_list() == [OriginalModel.load(place.settings().original_folder).digest]
    assert Path(scored["run_dir"]) == place.settings().runs / key


def test_rescoring_again_changes_nothing(place: Place, scored: dict[str, Any]) -> None:
    uri = place.settings().lake.uri
    before, version = read_quality(uri, scored["run_key"]), table_version(uri, "quality")
    assert rescore(place.settings()) == scored
    assert table_version(uri, "quality") == version
    assert read_quality(uri, scored["run_key"]).equals(before)


def test_another_version_seed_or_recipe_is_another_key(place: Place, scored: dict[str, Any]) -> None:
    version = place.publish(of_people("late", windows(people=2, each=2, seed=3)))
    newest = rescore(place.settings(), version=None)
    assert newest["scored"] >= 108 + 12
    keys = [
        scored["run_key"], newest["run_key"], rescore(place.settings(), seed=1)["run_key"],
        rescore(place.settings("[finetune]\npull = 0.5"))["run_key"], rescore(place.settings("[data]\nseed = 4"))["run_key"],
    ]  # fmt: skip
    assert len(set(keys)) == 5
    assert rescore(place.settings(), version=version) == newest, "the newest is the one that has this number"


def test_every_arm_is_a_run_below_one_parent(place: Place, tuned: dict[str, Any]) -> None:
    found = runs_of(place)
    parent = found[tuned["mlflow_run_id"]]
    children = {run.data.tags["arm"]: run for run in found.values() if "arm" in run.data.tags}
    assert set(children) == {"original", *ARMS}
    assert all(run.info.status == "FINISHED" for run in found.values())
    assert {run.data.tags["mlflow.parentRunId"] for run in children.values()} == {parent.info.run_id}
    assert parent.data.tags["run_key"] == tuned["run_key"]
    assert (parent.data.params["lake_version"], parent.data.params["labels_version"]) == ("2", "-1")
    assert parent.data.tags["labels_version"] == "-1"
    params = parent.data.params
    assert (params["finetune.epochs"], params["finetune.seed"], params["gate.recovery_threshold"]) == ("2", "0", "0.1")
    assert params["holdout"] == holdouts(place.settings()).current("target").name
    assert int(parent.data.params["train_windows"]) + int(parent.data.params["holdout_windows"]) == 108
    results = json.loads(Path(tuned["results"]).read_text(encoding="utf-8"))
    for name, arm in results["arms"].items():
        run = children[name]
        assert run.info.run_id == arm["run_id"]
        assert run.data.metrics["target/accuracy"] == pytest.approx(arm["accuracy"])
        assert run.data.metrics["recovery_ratio"] == pytest.approx(arm["recovery_ratio"])
        pictures = {file.path for file in place.client().list_artifacts(run.info.run_id)}
        assert {"confusion.png", "tiers.png"} <= pictures
    assert "comparison.png" in {file.path for file in place.client().list_artifacts(parent.info.run_id)}
    assert f"/runs/{parent.info.run_id}?" in tuned["mlflow_url"]


def test_fine_tuning_again_trains_nothing_and_makes_no_run(place: Place, tuned: dict[str, Any]) -> None:
    folder, before = place.settings().runs / tuned["run_key"], set(runs_of(place))
    kept = files(folder)
    assert tuned["kept"] == []
    assert finetune(place.settings(), tuned["run_key"]) == {**tuned, "kept": list(ARMS)}
    assert set(runs_of(place)) == before
    assert files(folder) == kept


def test_arms_that_are_trained_later_stand_beside_the_earlier(place: Place, scored: dict[str, Any]) -> None:
    """Or `promote` would say of an arm that has been trained that it has not."""
    key = rescore(place.settings(), seed=2)["run_key"]
    finetune(place.settings(), key, "plain")
    results = Path(finetune(place.settings(), key, "undersampling")["results"])
    assert set(json.loads(results.read_text(encoding="utf-8"))["arms"]) == {"original", "plain", "undersampling"}


def test_fine_tuning_excludes_another_and_replaces_its_results_whole(place: Place) -> None:
    """Two at once would train every arm twice; a reader of the results must never meet half of them."""
    key = rescore(place.settings(), seed=3)["run_key"]
    folder, busy = place.settings().runs / key, []

    def look(*_: Any) -> None:
        with (folder / "finetune.lock").open("a", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                busy.append(True)
            else:
                busy.append(False)

    retraining.finetune(place.settings(), run_key=key, arms=("plain",), progress=look)
    assert busy
    assert all(busy)
    look()
    assert not busy[-1], "it is free afterwards"
    with (folder / "results.json").open(encoding="utf-8") as opened:
        finetune(place.settings(), key, "plain", "undersampling")
        assert set(json.load(opened)["arms"]) == {"original", "plain"}, "who reads meanwhile reads all of the old ones"
    assert set(json.loads((folder / "results.json").read_text(encoding="utf-8"))["arms"]) == {
        "original",
        "plain",
        "undersampling",
    }


def test_the_model_that_passes_becomes_champion_with_an_account(place: Place, promoted: dict[str, Any]) -> None:
    assert promoted["passed"]
    assert promoted["champion"] == promoted["version"]
    ledger = steps.promotions(place.settings())
    assert ledger.champion() == promoted["version"]
    entry = ledger.history()[-1]
    assert (entry.action, entry.version) == ("promote", promoted["version"])
    assert not ledger.verify()
    version = steps.model_versions(place.settings(), place.client()).version(promoted["version"])
    assert version.tags["policy"] == "filterloss"
    assert version.aliases == ("champion",)
    frozen = holdouts(place.settings()).current("target")
    verdict = json.loads(entry.verdict or "")
    assert (verdict["frozen"], verdict["asked"], version.tags["holdout"]) == (frozen.name, 1, frozen.name)
    rules = {rule["name"]: rule for rule in verdict["rules"]}
    assert rules["holdout_changed"]["value"] == 0
    assert 0 < rules["latency"]["value"] == version.latency_s < 0.25
    assert 10 < rules["size"]["value"] == version.size_mb < 100, "a ResNet-18"
    assert 0 <= rules["recovery_lower_bound"]["value"] <= rules["recovery_ratio"]["value"]


def test_a_champion_that_cannot_be_asked_is_no_reason_to_promote(place: Place, promoted: dict[str, Any]) -> None:
    """Its files are gone from the store; nobody can say whether another is better."""
    settings, client = place.settings(), place.client()
    store = steps.model_versions(settings, client)
    shutil.rmtree(settings.home / "models", ignore_errors=True)
    logged = client.get_logged_model(store.version(promoted["version"]).source.removeprefix("models:/"))
    where = Path(logged.artifact_location.removeprefix("file://"))
    away = where.with_name("away")
    where.rename(away)
    try:
        with pytest.raises(ModelError, match=r"no files at .* any more.*'sensorloop registry rollback --to VERSION'"):
            judging.promote(settings, run_key=place_key(place, promoted), arm="plain")
        assert steps.promotions(settings).champion() == promoted["version"]
    finally:
        away.rename(where)
        store.unpoint(Alias.CHALLENGER)


def test_promoting_again_is_the_same_promotion(place: Place, promoted: dict[str, Any]) -> None:
    settings, client = place.settings(), place.client()
    store = steps.model_versions(settings, client)
    experiment = client.get_experiment_by_name(settings.registry.retrain_experiment).experiment_id

    def everything() -> tuple[Any, ...]:
        models = [model.model_id for model in client.search_logged_models([experiment])]
        return store.versions(), models, steps.promotions(settings).history()

    before = everything()
    again = judging.promote(settings, run_key=place_key(place, promoted), arm="filterloss")
    assert (again["passed"], again["version"], again["champion"]) == (True, promoted["version"], promoted["version"])
    assert everything() == before
    assert store.alias(Alias.CHALLENGER) is None


def place_key(place: Place, promoted: dict[str, Any]) -> str:
    version = steps.model_versions(place.settings(), place.client()).version(promoted["version"])
    return version.tags["run_key"]


def test_a_refusal_names_the_rule_and_leaves_the_champion(place: Place, promoted: dict[str, Any]) -> None:
    strict = place.settings("[gate]\nmin_scene_windows = 1000")
    refused = judging.promote(strict, run_key=place_key(place, promoted), arm="plain")
    assert not refused["passed"]
    assert refused["champion"] == promoted["champion"]
    assert any("1000" in reason for reason in refused["reasons"])
    entry = steps.promotions(strict).history()[-1]
    assert (entry.action, entry.version) == ("refused", refused["version"])
    assert json.loads(entry.verdict or "")["asked"] == 2, "the holdout has judged another before"
    against = {rule["name"]: rule for rule in json.loads(entry.verdict or "")["rules"]}["champion_accuracy"]
    assert against["threshold"] is not None, "it is held against the champion on the same holdout"
    again = judging.promote(strict, run_key=place_key(place, promoted), arm="plain")
    assert again == refused
    assert steps.model_versions(strict, place.client()).alias(Alias.CHALLENGER) is None


def test_what_was_found_of_a_version_stands(place: Place, promoted: dict[str, Any]) -> None:
    """Whatever the gate asks for today, and whoever serves after a rollback: a champion is not refused in hindsight."""
    strict, key, number = (
        place.settings("[gate]\nmin_scene_windows = 1000"),
        place_key(place, promoted),
        promoted["version"],
    )
    refused = judging.promote(strict, run_key=key, arm="plain")
    ledger, store = steps.promotions(strict), steps.model_versions(strict, place.client())
    before, tags = ledger.history(), store.version(number).tags
    assert judging.promote(strict, run_key=key, arm="filterloss") == promoted
    assert judging.promote(place.settings(), run_key=key, arm="plain") == refused
    assert ledger.history() == before
    assert store.version(number).tags == tags
    original = store.alias(Alias.ORIGINAL)
    ledger.rollback(to=original)
    try:
        after = ledger.history()
        for settings in (place.settings(), strict):
            again = judging.promote(settings, run_key=key, arm="filterloss")
            assert again == {**promoted, "champion": original}
        assert ledger.history() == after
        assert store.version(number).tags["validation_status"] == "passed"
    finally:
        ledger.rollback(to=number)


def test_what_is_not_there_is_said_with_the_command_that_makes_it(place: Place, scored: dict[str, Any]) -> None:
    with pytest.raises(RunError, match=r"no run nokey below .*'sensorloop rescore' makes one"):
        finetune(place.settings(), "nokey")
    with pytest.raises(RunError, match="no run nokey"):
        judging.promote(place.settings(), run_key="nokey", arm="filterloss")
    key = rescore(place.settings(), seed=5)["run_key"]
    with pytest.raises(RunError, match=f"no result of arm 'plain': 'sensorloop finetune --run-key {key}' trains it"):
        judging.promote(place.settings(), run_key=key, arm="plain")
    with pytest.raises(SettingsError, match="no arm 'magic'"):
        finetune(place.settings(), key, "magic")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            "[data]\nmin_coverage = 1.0",
            r"Changed since: \[data\] min_coverage \(0\.\d+, now 1\.0\)\. 'sensorloop rescore --cohort target'",
        ),
        ("[data]\nseed = 4", r"Changed since: \[data\] seed \(0, now 4\)\. 'sensorloop rescore --cohort target'"),
        (
            "[finetune]\nlearning_rate = 0.5",
            r"Changed since: \[finetune\] learning_rate \([\d.e-]+, now 0\.5\)\. 'sensorloop rescore --cohort target'",
        ),
        (
            "[quality]\nfolds = 2",
            r"Changed since: \[quality\] folds \(\d, now 2\)\. 'sensorloop rescore --cohort target'",
        ),
    ],
)
def test_a_run_key_with_other_settings_is_refused(place: Place, scored: dict[str, Any], more: str, said: str) -> None:
    """Another split would try the model on people whose labels it has learned from; another recipe would carry this one's name."""
    with pytest.raises(RunError, match=rf"Run {scored['run_key']} was made for other settings. {said}"):
        finetune(place.settings(more), scored["run_key"])


def test_a_run_from_before_its_settings_were_kept_says_in_which_sections_they_may_have_changed(
    place: Place, scored: dict[str, Any]
) -> None:
    file = place.settings().runs / scored["run_key"] / "run.json"
    text = file.read_text(encoding="utf-8")
    kept = json.loads(text)
    del kept["settings"]
    try:
        file.write_text(json.dumps(kept), encoding="utf-8")
        with pytest.raises(RunError, match=r"Changed since: \[data\], \[quality\] or \[finetune\], or the version"):
            finetune(place.settings("[data]\nseed = 4"), scored["run_key"])
    finally:
        file.write_text(text, encoding="utf-8")


def test_another_original_model_is_noticed(place: Place, scored: dict[str, Any]) -> None:
    folder = place.settings().original_folder
    original = OriginalModel.load(folder)
    other = original.net.clone()
    other.backbone.fc.bias.data += 1
    try:
        OriginalModel(
            net=other, evaluation=original.evaluation, holdout_subjects=(), lake_version=1, digest=other.digest()
        ).save(folder)
        with pytest.raises(RunError, match="was scored for another original model"):
            finetune(place.settings(), scored["run_key"])
    finally:
        original.save(folder)


def test_labels_that_do_not_allow_it_are_refused_with_what_is_missing(place: Place) -> None:
    place.publish(of_people("few", windows(people=3, each=2)), cohort="few")
    place.publish(of_people("two", windows(people=2, each=9)), cohort="two")
    place.publish(of_people("no-run", windows(people=4, counts=(0, 6, 6))), cohort="no-run")
    with pytest.raises(TooFewLabels, match=r"18 labelled windows .* at least 20 labelled windows are needed"):
        rescore(place.settings(), cohort="few", version=None)
    with pytest.raises(TooFewSubjects, match="of 2 people; at least 3"):
        rescore(place.settings(), cohort="two", version=None)
    with pytest.raises(MissingScene, match="No labelled window of Run"):
        rescore(place.settings(), cohort="no-run", version=None)
    without = place.settings('[data]\nscenes = ["Still", "Walk"]')
    assert rescore(without, cohort="no-run", version=None)["scored"] == 48, "a scene that is left out need not be there"
