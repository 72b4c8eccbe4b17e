"""What a rescoring leaves in the lake: embeddings made once, rows with weights and reasons, and the labels distrusted most."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import sensorloop
from dags import retraining, runs, scoring, steps, work
from dags.settings import Settings, load
from streaming.labelling import parse_time
from streaming.lake import read_embeddings, read_quality, table_version
from tests.dags.places import TOML
from tests.training.lakes import of_people, publish
from tests.training.made import network, windows
from training.arms import run_arms
from training.embeddings import features_of
from training.errors import RunError
from training.evaluation import evaluate
from training.heads import Head
from training.original import OriginalModel
from training.quality import score_quality
from training.tracking import NullRun, NullTracker, no_progress


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return installation(tmp_path_factory.mktemp("home"), sparse=[7])


def installation(home: Path, sparse: list[int], flipped: float = 0.0) -> Settings:
    """A lake of six people, one of them labelled wrongly in Run, some windows too sparse or flipped; and an original model."""
    (home / "sensorloop.toml").write_text(TOML, encoding="utf-8")
    (home / "mlflow").mkdir()  # the local server's, where who is held out is kept
    made = windows(people=6, each=6, seed=1)
    scenes = np.where((made.subjects == "p3") & (made.scenes == 0), 1, made.scenes)
    rng = np.random.default_rng(0)
    scenes = np.where(rng.random(len(made)) < flipped, (scenes + rng.integers(1, 3, len(made))) % 3, scenes)
    coverage = made.coverage.copy()
    coverage[sparse] = 0.3
    publish(home / "lake", replace(made, scenes=scenes, coverage=coverage))
    net = network()
    found = evaluate(made.scenes, made.scenes, made.scene_names)
    OriginalModel(net=net, evaluation=found, holdout_subjects=(), lake_version=1, digest=net.digest()).save(
        home / "original"
    )
    return load_settings(home)


def load_settings(home: Path) -> Settings:
    return load({"SENSORLOOP_HOME": str(home), "SENSORLOOP_CONFIG": str(home / "sensorloop.toml")})


@pytest.fixture(scope="module")
def scored(settings: Settings) -> dict[str, Any]:
    return retraining.rescore(settings, cohort="target", lake_version=None, seed=0, progress=no_progress)


def kept(settings: Settings) -> pl.DataFrame:
    model = OriginalModel.load(settings.original_folder).digest
    made = scored_ids(settings)
    return read_embeddings(settings.lake, model, made)


def scored_ids(settings: Settings) -> list[str]:
    loaded = steps.load_windows(settings, cohort="target", version=None)
    ids: list[str] = loaded.window_ids.tolist()
    return ids


def test_a_window_that_is_too_sparse_is_in_the_table_with_the_reason(
    settings: Settings, scored: dict[str, Any]
) -> None:
    rows = read_quality(settings.lake, scored["run_key"])
    assert (scored["scored"], scored["too_sparse"], rows.height) == (107, 1, 108)
    sparse = rows.filter(pl.col("margin").is_null())
    assert sparse.select("score", "weight", "tier").row(0) == (0.0, 0.0, 0)
    assert sparse["reasons"][0] == "not scored: its coverage of 0.30 is below [data] min_coverage = 0.5"
    assert sparse["window_id"][0] not in scored_ids(settings)


def test_a_window_that_is_too_sparse_has_no_weight_where_its_person_is_held_out(tmp_path: Path) -> None:
    settings = installation(tmp_path, sparse=[*range(0, 108, 9)])
    found = retraining.rescore(settings, cohort="target", lake_version=None, seed=0, progress=no_progress)
    rows = read_quality(settings.lake, found["run_key"])
    sparse, others = rows.filter(pl.col("margin").is_null()), rows.filter(pl.col("margin").is_not_null())
    held_out = set(others.filter(pl.col("weight").is_null())["subject_id"])
    assert held_out < set(sparse["subject_id"])
    assert set(sparse.filter(pl.col("weight").is_null())["subject_id"]) == held_out
    assert set(sparse.drop_nulls("weight")["weight"]) == {0.0}


def test_there_are_weights_of_those_who_are_trained_on_and_none_in_the_holdout(
    settings: Settings, scored: dict[str, Any]
) -> None:
    rows = read_quality(settings.lake, scored["run_key"]).filter(pl.col("margin").is_not_null())
    by_person = rows.group_by("subject_id").agg(
        pl.col("weight").is_null().any().alias("held_out"), pl.col("weight").is_null().all().alias("all")
    )
    assert (by_person["held_out"] == by_person["all"]).all(), "people are held out whole"
    assert 0 < by_person["held_out"].sum() < 6
    assert rows.drop_nulls("weight")["weight"].is_between(settings.quality.floor, 1).all()


def test_weights_in_the_table_are_those_that_the_loss_begins_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an installation where so much is doubted that they are not all alike."""
    settings = installation(tmp_path, sparse=[], flipped=0.2)
    found = retraining.rescore(settings, cohort="target", lake_version=None, seed=0, progress=no_progress)
    folder, run = runs.find(settings, found["run_key"])
    bench, handed = runs.bench(settings, folder, run), []

    class Enough(Exception):
        """Nothing needs to be trained."""

    def keep(
        original: object, cached: object, labels: object, weights: np.ndarray, *others: object, **more: object
    ) -> None:
        handed.append(weights)
        raise Enough

    monkeypatch.setattr("training.arms.finetune", keep)
    with pytest.raises(Enough):
        run_arms(bench, tmp_path / "arms", tracker=NullTracker(), parent=NullRun(), arms=("filterloss",))
    said = dict(read_quality(settings.lake, found["run_key"]).select("window_id", "weight").iter_rows())
    trained = bench.windows.window_ids[bench.train].tolist()
    assert [said[name] for name in trained] == handed[0].astype(np.float32).tolist()
    assert {name for name, weight in said.items() if weight is not None} == set(trained)
    assert len(set(handed[0])) > 10


def test_the_labels_that_are_wrong_are_shown_first_with_what_speaks_against_them(
    settings: Settings, scored: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found, count = scoring.most_distrusted(settings, run_key=scored["run_key"], most=108)
    assert count == 108
    assert [each.reasons.startswith("not scored") for each in found] == [False] * 107 + [True]
    wrong = [each for each in found[:6] if (each.subject_id, each.label) == ("p3", "Still")]
    assert len(wrong) >= 4, "6 of its 12 are wrong, and nobody else's"
    assert all("it looks like Run" in each.reasons for each in wrong)
    assert all(each.start.startswith("1970-01-01T00:0") and each.device_id and each.session_id for each in found)
    spans = [parse_time(each.end) - parse_time(each.start) for each in found]
    assert set(spans) == {2 * 10**9}, "times as a label is sent with them"
    monkeypatch.setenv("SENSORLOOP_HOME", str(settings.home))
    monkeypatch.setenv("SENSORLOOP_CONFIG", str(settings.home / "sensorloop.toml"))
    sensorloop.app(["quality", "--most", "2", "--subject", "p3"], standalone_mode=False)
    told = capsys.readouterr()
    assert "it looks like Run" in told.err
    assert f"2 of 18 windows of rescoring {scored['run_key']}" in told.err
    assert [each["label"] for each in json.loads(told.out)["shown"]] == ["Still", "Still"]
    with pytest.raises(RunError, match="has no label 'still'; it has Run, Still, Walk"):
        scoring.most_distrusted(settings, run_key=scored["run_key"], most=1, scene="still")
    with pytest.raises(RunError, match="has no subject_id 'nobody'; it has p0, p1"):
        scoring.most_distrusted(settings, run_key=scored["run_key"], most=1, subject="nobody")
    with pytest.raises(RunError, match="There is no rescoring nothing"):
        scoring.most_distrusted(settings, run_key="nothing", most=1)


def test_where_nothing_was_ever_scored_the_rescoring_is_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(
        RunError, match=r"There is no rescoring k in the lake .*'sensorloop rescore' makes one.*or set \[lake\] uri"
    ):
        scoring.most_distrusted(
            load({"SENSORLOOP_HOME": str(tmp_path), "SENSORLOOP_CONFIG": os.devnull}), run_key="k", most=1
        )


def test_the_last_rescoring_is_found_and_none_is_said(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="'sensorloop rescore' makes one; or set SENSORLOOP_HOME"):
        runs.newest(replace(settings, home=tmp_path))
    for key, at in (("aa", 20), ("bb", 30), ("cc", 10)):
        file = replace(settings, home=tmp_path).runs / key / runs.RUN
        file.parent.mkdir(parents=True)
        file.write_text("{}")
        os.utime(file, (at, at))
    assert runs.newest(replace(settings, home=tmp_path)) == "bb"


def test_a_second_rescoring_embeds_what_is_new_and_nothing_else(settings: Settings, scored: dict[str, Any]) -> None:
    assert kept(settings).height == 107
    before = read_quality(settings.lake, scored["run_key"])
    publish(settings.home / "lake", of_people("late", windows(people=2, each=2, seed=3)))
    todo = {"cohort": "target", "lake_version": None, "progress": no_progress}
    assert scoring.embed_days(settings, **todo, day=date(1970, 1, 2))["windows"] == 0
    done = scoring.embed_days(settings, **todo, day=date(1970, 1, 1))
    assert (done["windows"], done["embedded"], done["days"]) == (107 + 12, 12, 1)
    assert scoring.embed_days(settings, **todo)["embedded"] == 0
    version = table_version(settings.lake, "embeddings")
    newest = retraining.rescore(settings, cohort="target", lake_version=None, seed=0, progress=no_progress)
    assert newest["scored"] == 119
    assert table_version(settings.lake, "embeddings") == version, "all of them were there"
    assert kept(settings).height == 119
    assert read_quality(settings.lake, scored["run_key"]).equals(before)


def test_scores_from_kept_embeddings_are_those_from_scratch(settings: Settings, scored: dict[str, Any]) -> None:
    """What the lake kept, and what comes of it, against the network asked once more."""
    folder, run = runs.find(settings, scored["run_key"])
    found = runs.bench(settings, folder, run)
    again = scoring.embedded(settings, found.original, found.windows, no_progress)
    assert again.fresh == 0
    net = found.original.net
    anew = features_of(net, found.windows)
    np.testing.assert_array_equal(again.features, anew)
    quality = score_quality(
        found.windows, anew, Head.of(net), train=found.train, settings=settings.quality, seed=run["seed"]
    )
    rows = read_quality(settings.lake, scored["run_key"]).filter(pl.col("margin").is_not_null())
    kept_scores = dict(rows.select("window_id", "score").iter_rows())
    assert [kept_scores[name] for name in found.windows.window_ids.tolist()] == quality.score.astype(
        np.float32
    ).tolist()


def test_a_window_that_was_too_sparse_is_new_where_less_is_asked(settings: Settings, scored: dict[str, Any]) -> None:
    assert scored["too_sparse"] == 1
    lenient = replace(settings, data=replace(settings.data, min_coverage=0.2))
    newest = retraining.rescore(settings, cohort="target", lake_version=None, seed=0, progress=no_progress)
    runs.judge(settings.runs / newest["run_key"], "filterloss", passed=True)
    assert work.pin(settings, "target").fresh == 0
    assert work.pin(lenient, "target").fresh == 1
