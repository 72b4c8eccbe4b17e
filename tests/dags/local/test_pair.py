from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dags.local.pair import pair_of
from tests.training.lakes import CUT, of_people, publish
from tests.training.made import CHANNELS, windows
from training import original
from training.dataset import WindowSet
from training.errors import DataError, NoSuchCohort, TooFewLabels, TooFewSubjects

from .pairs import both, settings

FLEETS = ("source", "target")


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(original, "train_original", lambda *_, **__: pytest.fail("trained"))


def pair(tmp_path: Path, source: WindowSet, target: WindowSet) -> None:
    publish(tmp_path / "a", of_people("a", source), cohort="source")
    publish(tmp_path / "b", of_people("b", target), cohort="target")
    pair_of(settings(tmp_path), tmp_path / "e", (str(tmp_path / "a"), str(tmp_path / "b")), FLEETS, "n")


def test_a_source_and_a_target_with_nothing_in_common_are_told_so(tmp_path: Path) -> None:
    publish(tmp_path / "a", of_people("a", windows(people=3, counts=(8, 0, 0))), cohort="source")
    publish(tmp_path / "b", of_people("b", windows(people=3, counts=(0, 8, 0))), cohort="target")
    with pytest.raises(DataError, match=r"share 0 labelled scenes \(none\); at least 2"):
        pair_of(settings(tmp_path), tmp_path / "e", (str(tmp_path / "a"), str(tmp_path / "b")), FLEETS, "n")


def test_too_few_people_are_said_of_the_source_or_the_target_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(original, "train_original", lambda *_, **__: pytest.fail("trained"))
    publish(tmp_path / "both", of_people("a", windows(people=3, each=8)), cohort="source")
    publish(tmp_path / "both", of_people("b", windows(people=2, each=8, seed=3)), cohort="target")
    lake = str(tmp_path / "both")
    found, cohorts = settings(tmp_path), ("source", "target")
    with pytest.raises(TooFewSubjects, match=r"^The target: Too few people: 48 labelled windows"):
        pair_of(found, tmp_path / "experiments", (lake, lake), cohorts, "n")
    slow = tmp_path / "slow"
    publish(
        slow,
        of_people("c", replace(windows(people=4, each=8), rate_hz=25.0)),
        cut=replace(CUT, rate_hz=25.0, length=2 * CUT.length),
    )
    with pytest.raises(
        DataError, match=r"cut differently \(100 samples at 50 Hz and 100 samples at 25 Hz\): ingest both"
    ):
        pair_of(found, tmp_path / "experiments", (lake, str(slow)), cohorts, "n")
    many = replace(found, data=replace(found.data, min_labelled=1000))
    with pytest.raises(TooFewLabels, match=r"^The source: Too few labels: 72 labelled windows"):
        pair_of(many, tmp_path / "experiments", (lake, lake), cohorts, "n")


def test_scenes_that_only_one_has_are_said_with_what_may_be_meant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = replace(windows(people=6, each=8, seed=3), scene_names=("Run", "Still", "walking"))
    publish(tmp_path / "a", of_people("a", windows(people=6, each=8)), cohort="source")
    publish(tmp_path / "b", of_people("b", target), cohort="target")
    made = settings(tmp_path)
    every = replace(made, data=replace(made.data, scenes=()))
    pair = pair_of(every, tmp_path / "e", (str(tmp_path / "a"), str(tmp_path / "b")), FLEETS, "n")
    assert (len(pair.source), len(pair.target)) == (96, 96)
    said = " ".join(capsys.readouterr().err.split())
    wanted = (
        "Left out of the {}, as the {} has no such scene: {} (48 windows, first in session s16 of {}-p0, perhaps {})."
    )
    assert wanted.format("source", "target", "Walk", "a", "walking") in said
    assert wanted.format("target", "source", "walking", "b", "Walk") in said


def test_a_pair_that_shares_no_sensor_is_refused_and_what_is_masked_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], untrained: None
) -> None:
    gyroscope = replace(windows(people=6, each=8, seed=3), channels=("gyr_x", "gyr_y", "gyr_z"))
    publish(tmp_path / "a", of_people("a", windows(people=6, each=8)), cohort="source")
    publish(tmp_path / "b", of_people("b", gyroscope), cohort="target")
    made = settings(tmp_path)
    wide = replace(made, data=replace(made.data, channels=(*CHANNELS, *gyroscope.channels, "pre")))
    lakes = (str(tmp_path / "a"), str(tmp_path / "b"))
    wanted = r"no channel in common: the source has acc_x, acc_y, acc_z and the target has gyr_x, gyr_y, gyr_z\."
    with pytest.raises(DataError, match=wanted):
        pair_of(wide, tmp_path / "e", lakes, FLEETS, "n")
    more = windows(people=6, each=8, seed=3)
    signals = np.concatenate([more.signals, gyroscope.signals], axis=1)
    publish(
        tmp_path / "c",
        of_people("b", replace(more, signals=signals, channels=wide.data.channels[:-1])),
        cohort="target",
    )
    with pytest.raises(pytest.fail.Exception, match="trained"):
        pair_of(wide, tmp_path / "e", (lakes[0], str(tmp_path / "c")), FLEETS, "n")
    said = " ".join(capsys.readouterr().err.split())
    assert "The source has no gyr_x, gyr_y, gyr_z: masked there." in said
    assert "Neither has pre: no phone measured it, or [windows] sensors leaves it out." in said


def test_a_target_that_is_the_source_is_refused(tmp_path: Path, untrained: None) -> None:
    lake = both(tmp_path / "both")
    with pytest.raises(DataError, match=r"^144 of the target's 144 windows are windows of the source as well"):
        pair_of(settings(tmp_path), tmp_path / "e", (lake, lake), ("source", "source"), "n")


def test_a_target_that_has_some_of_the_source_is_told_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], untrained: None
) -> None:
    source, target = windows(people=6, each=8), windows(people=6, each=8, seed=3)
    signals = np.where((np.arange(144) < 40)[:, None, None], source.signals, target.signals)
    with pytest.raises(pytest.fail.Exception, match="trained"):
        pair(tmp_path, source, replace(target, signals=signals))
    assert "40 of the target's 144 windows are windows of the source as well: on these" in " ".join(
        capsys.readouterr().err.split()
    )


def test_which_of_the_two_lacks_something_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], untrained: None
) -> None:
    lake = both(tmp_path / "both")
    with pytest.raises(NoSuchCohort, match=r"^The target: .* windows of source, target\. .*that is --target-cohort\.$"):
        pair_of(settings(tmp_path), tmp_path / "e", (lake, lake), ("source", "london"), "n")
    coverage = np.where(np.arange(144) % 8 == 0, 0.25, 1.0).astype(np.float32)
    with pytest.raises(pytest.fail.Exception, match="trained"):
        pair(tmp_path, windows(people=6, each=8), replace(windows(people=6, each=8, seed=3), coverage=coverage))
    said = " ".join(capsys.readouterr().err.split())
    assert "Left out of the target's 144 labelled windows, as too sparse ([data] min_coverage): 18." in said
    assert "of the source's" not in said


def test_an_original_model_that_has_learned_nothing_is_said_to_be_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    still = windows(people=6, each=8)
    pair(tmp_path, replace(still, signals=np.ones_like(still.signals)), windows(people=6, each=8, seed=3))
    said = " ".join(capsys.readouterr().err.split())
    assert "would be right at least as often (0.333): the original model has learned nothing" in said
