from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.dataset import UNLABELLED, WindowSet
from training.errors import DataError, MissingScene

from .made import CHANNELS, RATE, SCENES, windows


def assert_same(one: WindowSet, other: WindowSet) -> None:
    for name in WindowSet.__slots__:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@st.composite
def window_sets(draw: st.DrawFn) -> WindowSet:
    """Any names, gaps and missing labels; several people may share a session, and a person have several phones."""
    count = draw(st.integers(0, 8))
    names = st.text(st.characters(exclude_categories=("C",)), min_size=1, max_size=3)
    texts = {
        name: draw(st.lists(names, min_size=count, max_size=count)) for name in ("subjects", "sessions", "devices")
    }
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    signals = rng.normal(size=(count, 2, 5)).astype(np.float32)
    signals[rng.random(signals.shape) < 0.2] = np.nan
    return WindowSet(
        signals=signals, channels=("acc_x", "pre"), rate_hz=draw(st.sampled_from([12.5, 50.0])), scene_names=("Köln", "Walk"),
        scenes=np.asarray(draw(st.lists(st.integers(UNLABELLED, 1), min_size=count, max_size=count)), np.int64),
        window_ids=np.array([f"w{i}" for i in range(count)], np.str_), start_ns=np.arange(count, dtype=np.int64) * 2**40,
        coverage=rng.random(count).astype(np.float32), version=draw(st.none() | st.integers(0, 5)),
        labels_version=draw(st.none() | st.integers(-1, 5)), verified=draw(st.none() | st.just(rng.random(count) < 0.5)),
        **{name: np.array(values, np.str_) for name, values in texts.items()},
    )  # fmt: skip


@given(window_sets())
def test_what_is_saved_is_loaded(tmp_path_factory: pytest.TempPathFactory, made: WindowSet) -> None:
    folder = tmp_path_factory.mktemp("windows")
    made.save(folder / "windows.npz")
    loaded = WindowSet.load(folder / "windows.npz")
    assert_same(loaded, made)
    assert loaded.digest() == made.digest()
    assert [path.name for path in folder.iterdir()] == ["windows.npz"]


def test_a_file_from_before_labels_could_come_later_is_loaded(tmp_path: Path) -> None:
    made = windows(people=1, each=1)
    made.save(tmp_path / "new.npz")
    with np.load(tmp_path / "new.npz") as archive:
        np.savez(tmp_path / "old.npz", **{name: archive[name] for name in archive.files if name != "labels_version"})
    assert_same(WindowSet.load(tmp_path / "old.npz"), made)


@pytest.mark.parametrize("content", [b"", b"no archive at all", b"PK\x03\x04 half an archive", None])
def test_a_file_that_holds_no_windows_is_said_to(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "windows.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"windows\.npz holds no windows"):
        WindowSet.load(path)


def test_half_a_file_and_other_arrays_hold_no_windows_either(tmp_path: Path) -> None:
    whole, half, other, lone = (tmp_path / f"{name}.npz" for name in ("whole", "half", "other", "lone"))
    windows(people=2, each=2).save(whole)
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    np.savez(other, signals=np.zeros(3))
    with lone.open("wb") as file:
        np.save(file, np.zeros(3))
    for path in (half, other, lone):
        with pytest.raises(DataError, match=f"{path.name} holds no windows"):
            WindowSet.load(path)


@given(window_sets(), st.data())
def test_the_digest_changes_with_everything_that_training_sees(made: WindowSet, data: st.DataObject) -> None:
    changed = [replace(made, rate_hz=made.rate_hz + 1), replace(made, scene_names=("Bus", "Walk"))]
    changed.append(replace(made, channels=("acc_y", "pre")))
    if len(made):
        at = data.draw(st.integers(0, len(made) - 1))
        signals, scenes, coverage = made.signals.copy(), made.scenes.copy(), made.coverage.copy()
        signals[at, 0, 0] = 7.0
        scenes[at] = (scenes[at] + 2) % 3 - 1
        coverage[at] = 2.0
        changed += [replace(made, signals=signals), replace(made, scenes=scenes), replace(made, coverage=coverage)]
        changed.append(made.select(np.arange(len(made)) != at))
        for name in ("subjects", "sessions", "devices", "window_ids"):
            texts = getattr(made, name).tolist()
            texts[at] += "+"
            changed.append(replace(made, **{name: np.array(texts, np.str_)}))
    digests = {made.digest(), *(each.digest() for each in changed)}
    assert len(digests) == 1 + len(changed)
    assert replace(made, version=99).digest() == made.digest(), "where it was read is not what it is"


def test_who_is_to_be_believed_is_not_what_a_result_is_measured_on() -> None:
    """A holdout is the same, whoever is named in [data] verified_by afterwards."""
    made = windows(people=1, each=1)
    assert made.digest() == replace(made, verified=np.ones(3, bool)).digest()


def test_arrays_say_what_is_verified_as_they_like() -> None:
    made = windows(people=1, each=1)
    named = {"channels": made.channels, "scene_names": made.scene_names, "rate_hz": made.rate_hz}
    found = WindowSet.of(made.signals, made.scenes, made.subjects, verified=[1, 0, 2], **named)  # type: ignore[arg-type]
    assert found.verified is not None
    assert found.verified.tolist() == [True, False, True]


def test_what_is_verified_stays_with_its_window() -> None:
    made = replace(windows(people=1, each=2), verified=np.arange(6) % 2 == 0)
    some = made.select(np.array([4, 1]))
    assert some.verified is not None
    assert some.verified.tolist() == [True, False]
    with pytest.raises(DataError, match=r"verified must be \(6,\)"):
        replace(made, verified=np.ones(5, bool))


def test_no_name_runs_over_into_the_next_column() -> None:
    """The last subject and the first session could otherwise share their letters out in two ways."""
    one = windows(people=1, each=1, seed=1)
    n = len(one)
    left = replace(one, subjects=np.array(["p"] * n), sessions=np.array(["as"] * n))
    right = replace(one, subjects=np.array(["p"] * (n - 1) + ["pa"]), sessions=np.array(["s"] + ["as"] * (n - 1)))
    assert left.digest() != right.digest()


@given(window_sets())
def test_one_person_and_one_session_are_one_group(made: WindowSet) -> None:
    groups = made.groups()
    for i in range(len(made)):
        for j in range(i):
            same_session = made.devices[i] == made.devices[j] and made.sessions[i] == made.sessions[j]
            if made.subjects[i] == made.subjects[j] or same_session:
                assert groups[i] == groups[j]
    assert sorted(set(groups.tolist())) == list(range(len(set(groups.tolist()))))
    order = np.argsort(made.window_ids)[::-1]
    np.testing.assert_array_equal(made.select(order).groups(), groups[order], "the order of the rows says nothing")


def test_people_who_share_nothing_are_groups_of_their_own() -> None:
    made = windows(people=4, each=2)
    assert len(set(made.groups().tolist())) == 4
    shared = made.sessions.copy()
    devices = made.devices.copy()
    shared[made.subjects == "p1"], devices[made.subjects == "p1"] = made.sessions[0], made.devices[0]
    assert len(set(replace(made, sessions=shared, devices=devices).groups().tolist())) == 3


def test_infinite_samples_are_refused() -> None:
    made = windows(people=1, each=1)
    signals = made.signals.copy()
    signals[0, 0, 3] = np.inf
    with pytest.raises(DataError, match="infinite samples: give NaN where there is no sample"):
        WindowSet.of(signals, made.scenes, made.subjects, channels=CHANNELS, scene_names=SCENES, rate_hz=RATE)


def test_scenes_are_renumbered_and_unknown_ones_named() -> None:
    made = windows(people=2, each=2)
    half = replace(made, scenes=np.where(np.arange(len(made)) % 2, made.scenes, UNLABELLED))
    other = half.with_scenes(("Walk", "Bus", "Run", "Still"))
    names = np.array([*SCENES, "?"])[half.scenes]
    assert np.array([*other.scene_names, "?"])[other.scenes].tolist() == names.tolist()
    with pytest.raises(
        MissingScene, match=r"Run \(4 windows, .*\), Still \(4 windows, .*known are Walk.*\[data\] scenes"
    ):
        made.with_scenes(("Walk",))
    assert made.select(made.scenes == 2).with_scenes(("Walk",)).counts() == {"Walk": 4}


def test_channels_come_in_the_order_asked_for_and_missing_ones_are_nan() -> None:
    made = windows(people=1, each=1)
    other = made.with_channels(("pre", "acc_z", "acc_x"))
    assert np.isnan(other.signals[:, 0]).all()
    np.testing.assert_array_equal(other.signals[:, 1:], made.signals[:, [2, 0]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": ("acc_x",)}, r"must be \(windows, 1 channels, samples\)"),
        ({"subjects": np.array(["p"])}, "subjects must be"),
        ({"scenes": np.full(3, 3)}, "below 3"),
        ({"scenes": np.full(3, -2)}, "must be -1"),
    ],
)
def test_what_does_not_fit_together_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        replace(windows(people=1, each=1), **change)  # type: ignore[arg-type]


def test_a_scene_that_is_not_known_is_said_with_where_it_is_and_what_may_be_meant() -> None:
    made = windows(people=2, each=2)
    misspelt = replace(made, scene_names=("Run", "Still", "Wlak"))
    with pytest.raises(
        MissingScene,
        match=r"Wlak \(4 windows, first in session s4 of d-p0, perhaps Walk\); known are Run, Still, Walk\.",
    ):
        misspelt.with_scenes(SCENES)
