"""Steps over a real lake and MLflow's real stores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dags import retraining, runs, steps, work
from dags.settings import Settings
from streaming.errors import LakeError
from streaming.label_wire import SceneLabel
from streaming.tables import NO_LABELS
from tests.dags.places import Place, make
from tests.fixtures.tracking import own_tracking_uri
from tests.streaming.lakes import LabelWriter
from tests.training.lakes import of_people
from tests.training.made import CHANNELS, SCENES, windows
from training.dataset import UNLABELLED
from training.errors import DataError, ModelError
from training.original import OriginalModel
from training.tracking import no_progress


@pytest.fixture
def place(tmp_path: Path, empty_database: Path) -> Any:
    with own_tracking_uri():
        yield make(tmp_path / "home", empty_database)


def learn(settings: Settings, cohort: str) -> None:
    """Rescore, and end the run."""
    done = retraining.rescore(settings, cohort=cohort, lake_version=None, seed=0, progress=no_progress)
    runs.judge(settings.runs / done["run_key"], "filterloss", passed=False)


def test_a_pin_names_the_newest_version_and_counts_a_cohort(place: Place) -> None:
    made = of_people("new", windows(people=1, each=2))
    version = place.publish(replace(made, scenes=np.array([UNLABELLED, 0, 1, 2, 2, UNLABELLED])))
    pin = work.pin(place.settings(), "target")
    assert pin == work.Pin(
        cohort="target",
        lake_version=version,
        labels_version=NO_LABELS,
        windows=108 + 6,
        labelled=108 + 4,
        fresh=108 + 4,
    )
    assert work.pin(place.settings(), "source").labelled == 90
    assert work.pin(place.settings(), "nobody").windows == 0


def test_what_was_rescored_is_not_fresh_and_neither_is_what_never_will_be(
    trained: tuple[Place, dict[str, Any]],
) -> None:
    """Windows that are too sparse, or of scenes left out, are never scored: counted as new for ever, they would retrain every day."""
    place, _ = trained
    settings = place.settings()
    learn(settings, "target")
    before = work.pin(settings, "target")
    assert before.fresh == 0
    made = of_people("sparse", windows(people=1, each=2))
    sparse = replace(made, coverage=np.array([0.1, 0.1, 0.1, 0.9, 0.9, 0.9], np.float32))
    place.publish(sparse)
    after = work.pin(settings, "target")
    assert (after.windows, after.labelled, after.fresh) == (before.windows + 6, before.labelled + 6, 3)
    assert work.pin(place.settings('[data]\nscenes = ["Walk"]'), "target").fresh == 2


def test_a_window_that_is_labelled_anew_is_fresh_until_it_is_scored_so(trained: tuple[Place, dict[str, Any]]) -> None:
    """Also if it goes back to what it was once scored with; not if the label is what it was, or was withdrawn."""
    place, _ = trained
    settings = place.settings()
    made = of_people("revised", windows(people=4, each=3))
    place.publish(made, cohort="revised")
    writer = LabelWriter(settings.lake)

    def say(at: int, scene: str | None, day: int) -> None:
        start = int(made.start_ns[at])
        writer.publish(
            0,
            SceneLabel(
                device_id=str(made.devices[at]), session_id=str(made.sessions[at]), start_ns=start, end_ns=start + 2 * 10**9,
                scene=scene, said_by="ana", said_ns=start + day * 86_400 * 10**9,
            ),
        )  # fmt: skip

    def fresh() -> tuple[int, int]:
        found = work.pin(settings, "revised")
        assert found.windows == len(made)
        return found.labelled, found.fresh

    def rescore() -> None:
        learn(settings, "revised")

    assert fresh() == (36, 36)
    rescore()
    assert fresh() == (36, 0)
    say(0, "Run", 1)
    assert fresh() == (36, 0), "that is what it was"
    say(0, "Walk", 2)
    say(1, None, 2)
    assert fresh() == (35, 1)
    rescore()
    assert fresh() == (35, 0)
    say(0, "Run", 3)
    assert fresh() == (35, 1)


def test_windows_are_those_of_the_settings(place: Place) -> None:
    found = steps.load_windows(place.settings(), cohort="target", version=None)
    assert (found.channels, found.scene_names, len(found)) == (CHANNELS, SCENES, 108)
    some = steps.load_windows(place.settings('[data]\nscenes = ["Walk", "Run"]'), cohort="target", version=None)
    assert some.counts() == {"Walk": 36, "Run": 36}
    with pytest.raises(DataError, match="no labelled window of cohort 'nobody'"):
        steps.load_windows(place.settings(), cohort="nobody", version=None)


def test_the_original_model_is_kept_tracked_and_registered(trained: tuple[Place, dict[str, Any]]) -> None:
    place, answer = trained
    settings = place.settings()
    original = OriginalModel.load(settings.original_folder)
    assert (original.digest, original.accuracy) == (answer["digest"], answer["source_accuracy"])
    assert original.lake_version == answer["lake_version"]
    assert answer["folder"] == str(place.home / "original")
    client = place.client()
    run = client.get_run(answer["mlflow_run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["source/accuracy"] == pytest.approx(original.accuracy)
    assert [point.step for point in client.get_metric_history(run.info.run_id, "loss")] == [1, 2, 3, 4, 5, 6]
    assert run.data.tags["cohort"] == "source"
    store = steps.model_versions(settings, client)
    version = store.version(answer["version"])
    assert version.aliases == ("original",)
    assert version.tags["policy"] == "original"
    assert steps.promotions(settings).champion() != answer["version"], "nobody has asked the gate"


def test_an_original_model_that_fails_is_a_failed_run_and_no_version(place: Place) -> None:
    place.publish(of_people("one", windows(people=1, each=9)), cohort="alone")
    with pytest.raises(DataError, match="Too few people"):
        steps.train_original(place.settings(), cohort="alone", seed=0, progress=no_progress)
    client = place.client()
    experiment = client.get_experiment_by_name(place.settings().registry.original_experiment)
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FAILED"
    assert "Too few people" in run.data.tags["error"]
    assert not steps.model_versions(place.settings(), client).versions()
    assert not place.settings().original_folder.exists()


def test_no_lake(tmp_path: Path, place: Place) -> None:
    settings = place.settings()
    nowhere = replace(settings, lake=replace(settings.lake, uri=str(tmp_path / "nowhere")))
    with pytest.raises(LakeError, match="no table windows"):
        work.pin(nowhere, "target")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"rate_hz": 25.0}, "rate_hz = 50.0, and these have 25.0"),
        ({"channels": ("acc_z", "acc_y", "acc_x")}, "channels = .*'acc_x', 'acc_y', 'acc_z'.* and these have"),
        ({"scene_names": ("Bus", "Still", "Walk")}, "scenes = .*'Run', 'Still', 'Walk'.*begin anew with another"),
    ],
)
def test_a_champion_is_not_asked_about_windows_that_only_have_the_shape_of_its_own(
    changed: dict[str, Any], said: str
) -> None:
    made = windows(people=1, each=1)
    metadata = {"rate_hz": 50.0, "channels": ["acc_x", "acc_y", "acc_z"], "scenes": ["Run", "Still", "Walk"]}
    steps._require_made_for(metadata, made, "Version 3")
    steps._require_made_for({}, made, "A version from before it was said")
    with pytest.raises(ModelError, match=f"Version 3 was made for windows with {said}"):
        steps._require_made_for(metadata, replace(made, **changed), "Version 3")
