from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from streaming.errors import LakeError
from streaming.label_wire import SceneLabel
from streaming.settings import LakeSettings
from streaming.tables import NO_LABELS
from tests.streaming.lakes import LabelWriter
from training.dataset import UNLABELLED, WindowSet
from training.errors import DataError, NoSuchCohort
from training.lake import from_lake

from .lakes import CUT, publish
from .made import CHANNELS, RATE, SAMPLES, SCENES, windows

GYROSCOPE = ("gyr_x", "gyr_y", "gyr_z")


def read(lake: Path, version: int | None = None, **options: object) -> WindowSet:
    return from_lake(str(lake), version, **{"cohort": "target", "channels": CHANNELS, **options})  # type: ignore[arg-type]


def test_what_is_in_the_lake_is_read(tmp_path: Path) -> None:
    made = windows(people=3, each=2)
    version = publish(tmp_path, made)
    found = read(tmp_path)
    order = np.lexsort((made.start_ns, made.sessions, made.devices))
    np.testing.assert_array_equal(found.signals, made.signals[order])
    np.testing.assert_array_equal(found.scenes, made.scenes[order])
    np.testing.assert_array_equal(found.subjects, made.subjects[order])
    np.testing.assert_array_equal(found.start_ns, made.start_ns[order])
    assert (found.scene_names, found.rate_hz, found.signals.shape[2]) == (SCENES, RATE, SAMPLES)
    assert found.version == version
    assert len(set(found.window_ids.tolist())) == len(found)


def test_a_version_is_read_as_it_was_and_another_cohort_is_not(tmp_path: Path) -> None:
    first = publish(tmp_path, windows(people=2, each=2))
    before = read(tmp_path, first)
    late = windows(people=1, each=1, seed=9)
    publish(tmp_path, replace(late, subjects=np.array(["late"] * 3), devices=np.array(["d-late"] * 3)))
    publish(tmp_path, windows(people=2, each=3, seed=2), cohort="source")
    again = read(tmp_path, first)
    for name in WindowSet.__slots__:
        np.testing.assert_array_equal(getattr(again, name), getattr(before, name))
    newest = read(tmp_path)
    assert (len(newest), newest.version) == (len(before) + 3, first + 2)
    assert newest.digest() != before.digest()
    assert set(newest.subjects.tolist()) == {"p0", "p1", "late"}


def test_sparse_windows_are_left_out_by_the_sparsest_sensor_that_is_there(tmp_path: Path) -> None:
    made = windows(people=1, each=2)
    both = np.concatenate([made.signals, made.signals], axis=1)
    both[0, 3:] = np.nan
    coverage = np.linspace(0.125, 0.75, len(made), dtype=np.float32)  # exact in binary: the limit itself is enough
    publish(tmp_path, replace(made, signals=both, channels=(*CHANNELS, *GYROSCOPE), coverage=coverage))
    channels = (*CHANNELS, *GYROSCOPE)
    everything = read(tmp_path, channels=channels)
    np.testing.assert_allclose(np.sort(everything.coverage), coverage)
    absent = np.isnan(everything.signals[:, 3:]).all(axis=(1, 2))
    np.testing.assert_allclose(everything.coverage[absent], [0.125])
    assert len(read(tmp_path, channels=channels, min_coverage=0.5)) == 3
    with pytest.raises(
        DataError, match=r"no window of cohort 'target' with a coverage of at least 0.9.*\[data\] min_cov"
    ):
        read(tmp_path, min_coverage=0.9)


def test_a_phone_without_any_of_the_sensors_is_left_out(tmp_path: Path) -> None:
    made = windows(people=1, each=1)
    publish(tmp_path, made)
    gyroscope = replace(made, channels=GYROSCOPE, devices=np.array(["other"] * 3))
    publish(tmp_path, gyroscope)
    assert set(read(tmp_path).devices.tolist()) == {"d-p0"}
    assert len(read(tmp_path, channels=(*CHANNELS, *GYROSCOPE))) == 6


def test_a_channel_that_the_lake_lacks_is_nan_and_none_at_all_is_an_error(tmp_path: Path) -> None:
    publish(tmp_path, windows(people=1, each=1))
    found = read(tmp_path, channels=("mag_x", "acc_x"))
    assert np.isnan(found.signals[:, 0]).all()
    assert not np.isnan(found.signals[:, 1]).any()
    with pytest.raises(DataError, match=r"None of the channels mag_x, mag_y is in the lake.*\[data\] channels"):
        read(tmp_path, channels=("mag_x", "mag_y"))


def test_an_axis_that_a_sensor_does_not_have_is_an_error_and_so_is_a_fleet_that_is_not_there(tmp_path: Path) -> None:
    """A slip of the pen would train on what is left, and nobody would know why the model is so bad."""
    publish(tmp_path, windows(people=1, each=1))
    with pytest.raises(
        DataError,
        match=r"'acc_q' is not in the lake .*, which has acc_x, acc_y, acc_z(, [a-z]+_?[xyz]?)*: set \[data\] channels",
    ):
        read(tmp_path, channels=("acc_x", "acc_q"))
    with pytest.raises(
        DataError, match=r"no window of cohort 'sauce' .*; it has windows of target\. Name one of these"
    ):
        from_lake(str(tmp_path), cohort="sauce", channels=("acc_x",))


def test_unlabelled_windows_and_scenes_that_were_not_asked_for(tmp_path: Path) -> None:
    made = windows(people=1, each=4)
    publish(tmp_path, replace(made, scenes=np.where(np.arange(12) % 4 == 0, UNLABELLED, made.scenes)))
    assert (read(tmp_path).scenes == UNLABELLED).sum() == 3
    assert len(read(tmp_path, labelled_only=True)) == 9
    some = read(tmp_path, scenes=("Walk", "Bus", "Run"), labelled_only=True)
    assert some.counts() == {"Walk": 3, "Bus": 0, "Run": 3}
    assert len(read(tmp_path, scenes=("Walk",))) == 3 + 3
    assert len(read(tmp_path).labelled()) == 9


def test_a_lake_without_labels_says_so(tmp_path: Path) -> None:
    publish(tmp_path, replace(windows(people=1, each=1), scenes=np.full(3, UNLABELLED)))
    with pytest.raises(DataError, match="no labelled window of cohort 'target'"):
        read(tmp_path, labelled_only=True)
    with pytest.raises(DataError, match="no window of cohort 'city'"):
        read(tmp_path, cohort="city")


def test_why_no_window_is_usable_is_said(tmp_path: Path) -> None:
    made = windows(people=1, each=2)
    publish(tmp_path / "sparse", replace(made, coverage=np.full(6, 0.25, np.float32)))
    with pytest.raises(
        DataError, match=r"its 6 windows have 0\.25 at most, by the sparsest sensor.*\[windows\] max_gap"
    ):
        read(tmp_path / "sparse", min_coverage=0.5, labelled_only=True)
    publish(tmp_path / "unlabelled", replace(made, scenes=np.full(6, UNLABELLED)))
    with pytest.raises(DataError, match=r"none of its 6 windows has a label\. .*'sensorloop label send'"):
        read(tmp_path / "unlabelled", labelled_only=True)
    with pytest.raises(DataError, match=r"its windows are of Run, Still, Walk, and \[data\] scenes names Bus, Car\.$"):
        read(tmp_path / "sparse", scenes=("Bus", "Car"), labelled_only=True)
    with pytest.raises(DataError, match=r"its 6 windows have no sensor of \[data\] channels \(gyr_x, gyr_y, gyr_z\)"):
        read(tmp_path / "sparse", channels=GYROSCOPE)
    with pytest.raises(NoSuchCohort):
        read(tmp_path / "sparse", cohort="city")


def test_a_channel_that_no_sensor_has_is_an_error(tmp_path: Path) -> None:
    publish(tmp_path, windows(people=1, each=1))
    with pytest.raises(DataError, match=r"No sensor has the channel 'light'; known are acc_x, .*pre: set \[data\]"):
        read(tmp_path, channels=("acc_x", "light"))


def test_windows_of_two_lengths_are_refused(tmp_path: Path) -> None:
    made = windows(people=1, each=1)
    publish(tmp_path, made)
    half = replace(CUT, length=CUT.length / 2)
    publish(tmp_path, replace(made, signals=made.signals[..., :50], devices=np.array(["other"] * 3)), cut=half)
    with pytest.raises(DataError, match=r"2 different lengths \[50, 100\]"):
        read(tmp_path)


def test_windows_as_many_samples_long_and_not_as_many_seconds_are_refused(tmp_path: Path) -> None:
    """Half as many samples a second, twice as long: their shape says nothing of it."""
    publish(tmp_path, windows(people=1, each=2))
    slower = replace(CUT, rate_hz=CUT.rate_hz / 2, length=2 * CUT.length)
    publish(tmp_path, replace(windows(people=1, each=2, seed=1), rate_hz=RATE / 2), cut=slower)
    with pytest.raises(
        DataError, match=r"different lengths: 2 s, 4 s\. Ingest into a new lake after changing \[windows\]"
    ):
        read(tmp_path)


def test_no_lake_and_no_such_version(tmp_path: Path) -> None:
    with pytest.raises(LakeError, match="no table windows"):
        read(tmp_path)
    publish(tmp_path, windows(people=1, each=1), cut=CUT)
    with pytest.raises(LakeError, match="version 77"):
        read(tmp_path, 77)


def said(made: WindowSet, at: int, scene: str | None, **change: object) -> SceneLabel:
    """A label of exactly one window, said a week later."""
    start = int(made.start_ns[at])
    fields = {
        "device_id": str(made.devices[at]), "start_ns": start, "end_ns": start + CUT.length_ns, "scene": scene, "said_by": "ana",
        "session_id": str(made.sessions[at]), "said_ns": start + 7 * 86_400 * 10**9,
    } | change  # fmt: skip
    return SceneLabel(**fields)  # type: ignore[arg-type]


def test_what_was_said_later_counts_at_the_version_that_was_pinned(tmp_path: Path) -> None:
    made = windows(people=2, each=2)
    bare = replace(made, scenes=np.where(np.arange(len(made)) == 0, UNLABELLED, made.scenes))
    version = publish(tmp_path, bare)
    before = read(tmp_path, labelled_only=True)
    assert (len(before), before.labels_version, before.said_later) == (11, NO_LABELS, None)
    writer = LabelWriter(LakeSettings(uri=str(tmp_path)))
    first = writer.publish(0, said(made, 0, "Bus"), said(made, 5, "Bus"), said(made, 6, None))
    second = writer.publish(0, said(made, 5, "Walk", said_ns=int(made.start_ns[5]) + 8 * 86_400 * 10**9))

    def scenes(labels_version: int | None) -> dict[str, str | None]:
        found = read(tmp_path, version, labels_version=labels_version)
        assert found.labels_version == (second if labels_version is None else labels_version)
        names = [*found.scene_names, None]
        return dict(zip(found.sessions.tolist(), [names[scene] for scene in found.scenes], strict=True))

    own = {f"s{at}": SCENES[scene] for at, scene in enumerate(made.scenes)}
    assert scenes(NO_LABELS) == own | {"s0": None}
    assert scenes(first) == own | {"s0": "Bus", "s5": "Bus", "s6": None}
    assert scenes(second) == scenes(None) == own | {"s0": "Bus", "s5": "Walk", "s6": None}
    labelled = read(tmp_path, labels_version=first, labelled_only=True)
    assert (len(labelled), labelled.said_later) == (11, first)
    np.testing.assert_array_equal(
        labelled.signals[labelled.sessions == "s5"],
        made.signals[made.sessions == "s5"],
        "the signals are still its own",
    )
    assert read(tmp_path, scenes=("Bus",), labelled_only=True).counts() == {"Bus": 1}
    with pytest.raises(LakeError, match="version 77"):
        read(tmp_path, labels_version=77)


def test_what_was_said_by_those_who_label_rightly_is_verified(tmp_path: Path) -> None:
    """So long as nobody says something else later; a phone's own label is nobody's."""
    made = windows(people=1, each=2)
    publish(tmp_path, made)
    writer = LabelWriter(LakeSettings(uri=str(tmp_path)))
    later = {"said_ns": int(made.start_ns[-1]) + 9 * 86_400 * 10**9}
    writer.publish(
        0, said(made, 0, "Bus"), said(made, 1, "Bus", said_by="bo"), said(made, 2, "Bus"), said(made, 3, None)
    )
    writer.publish(0, said(made, 2, "Walk", said_by="bo", **later))
    found = read(tmp_path, verified_by=("ana", "cy"))
    at = {start: number for number, start in enumerate(found.start_ns.tolist())}
    assert found.verified is not None
    assert [bool(found.verified[at[int(start)]]) for start in made.start_ns] == [True] + [False] * 5
    assert read(tmp_path).verified is None
