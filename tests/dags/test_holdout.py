"""Who is held out, over a real lake that grows: the same people and windows at every version, and nobody new among them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from dags import steps
from dags.holdout import frozen_split, holdouts, question, retire
from registry.holdouts import Frozen
from tests.dags.places import Place, make
from tests.training.lakes import of_people
from tests.training.made import windows
from training.dataset import WindowSet
from training.errors import MissingScene, RunError, TooFewLabels, TooFewSubjects
from training.folds import Split


@pytest.fixture
def place(tmp_path: Path, empty_database: Path) -> Place:
    return make(tmp_path / "installation", empty_database)


def load(place: Place, more: str = "") -> WindowSet:
    return steps.load_windows(place.settings(more), cohort="target", version=None)


def split(place: Place, found: WindowSet, *, name: str | None = None, more: str = "") -> tuple[Split, Frozen]:
    return frozen_split(place.settings(more), found, cohort="target", name=name, lake_version=found.version)


def test_later_versions_of_the_lake_ask_the_same_people_the_same(place: Place) -> None:
    first = load(place)
    before, frozen = split(place, first)
    asked = first.select(before.holdout)
    assert set(frozen.subjects) == set(asked.subjects.tolist())
    assert set(frozen.labels) == set(asked.window_ids.tolist())

    place.publish(of_people("new", windows(people=5, each=6, seed=7)))
    of_held = windows(people=1, each=6, seed=8)
    held = frozen.subjects[0]
    place.publish(dataclasses.replace(of_people("more", of_held), subjects=np.array([held] * len(of_held))))
    later = load(place)
    assert len(later) > len(first)
    after, again = split(place, later)
    assert again == frozen
    assert later.select(after.holdout).digest() == asked.digest(), "to the last bit"
    learned = set(later.subjects[after.train].tolist())
    assert any(subject.startswith("new") for subject in learned), "new people are learned from"
    assert not learned & set(frozen.subjects)
    neither = ~(after.train | after.holdout)
    assert set(later.subjects[neither].tolist()) == {held}, (
        "new windows of who is held out are neither asked nor learned from"
    )


def test_what_was_relabelled_or_is_gone_is_told_to_the_gate(place: Place) -> None:
    found = load(place)
    mask, frozen = split(place, found)
    asked = found.select(mask.holdout)
    whole = question(place.settings(), frozen, asked, candidate="k:filterloss")
    assert (whole.holdout, whole.number, whole.windows) == (frozen.name, 1, len(asked))
    assert (whole.relabelled, whole.missing) == (0, 0)
    scenes = asked.scenes.copy()
    scenes[:2] = (scenes[:2] + 1) % len(asked.scene_names)
    fewer = dataclasses.replace(asked, scenes=scenes).select(np.arange(len(asked) - 3))
    changed = question(place.settings(), frozen, fewer, candidate="k2:filterloss")
    assert (changed.number, changed.relabelled, changed.missing) == (2, 2, 3)


def test_a_run_whose_holdout_was_renewed_is_scored_again(place: Place) -> None:
    found = load(place)
    _, frozen = split(place, found)
    assert split(place, found, name=frozen.name)[1] == frozen
    holdouts(place.settings()).retire("target", why="Labels were corrected.", redraw=False)
    with pytest.raises(RunError, match=f"Holdout {frozen.name} of cohort target has been renewed .* rescore"):
        split(place, found, name=frozen.name)
    _, renewed = split(place, found)
    assert (renewed.number, renewed.subjects) == (2, frozen.subjects)
    holdouts(place.settings()).retire("target", why="Others.", redraw=True)
    with_others = "[data]\nseed = 9"
    _, redrawn = split(place, found, more=with_others)
    assert redrawn.number == 3


def redraw(place: Place) -> None:
    retire(place.settings(), "target", why="Asked too often.", redraw=True)


def test_others_are_others_with_the_same_settings(place: Place) -> None:
    """Six people, one or two held out at a time: as long as there are people who never were, it is they."""
    found = load(place)
    _, first = split(place, found)
    asked = found.select(np.isin(found.subjects, list(first.subjects)))
    assert question(place.settings(), first, asked, candidate="k:filterloss").number == 1
    seen = set(first.subjects)
    held = [first]
    while len(seen) + len(first.subjects) <= 6:
        redraw(place)
        mask, other = split(place, found)
        assert not set(other.subjects) & seen
        assert set(found.subjects[mask.holdout].tolist()) == set(other.subjects)
        assert question(place.settings(), other, found.select(mask.holdout), candidate="k:filterloss").number == 1
        seen |= set(other.subjects)
        held.append(other)
    assert len(held) >= 3
    redraw(place)
    _, last = split(place, found)
    assert last.subjects not in {each.subjects for each in held}, "nobody is left who never was: another set of them"


def test_nobody_else_can_be_held_out(place: Place) -> None:
    """Three people, of whom two are needed to train on, and only one has every scene."""
    made = windows(people=3, each=9)
    lacks = ((made.subjects == "p1") & (made.scenes == 2)) | ((made.subjects == "p2") & (made.scenes == 1))
    place.publish(of_people("three", made.select(~lacks)), cohort="three")
    settings = place.settings()
    found = steps.load_windows(settings, cohort="three", version=None)

    def freeze() -> Frozen:
        return frozen_split(settings, found, cohort="three", name=None, lake_version=found.version)[1]

    first = freeze()
    retire(settings, "three", why="", redraw=True)
    for _ in range(2):  # nothing is frozen meanwhile
        text = f"Nobody else of cohort three can be held out than {', '.join(first.subjects)}.*renew-holdout --cohort three' keeps"
        with pytest.raises(RunError, match=text):
            freeze()
    assert not retire(settings, "three", why="", redraw=False).redraw
    again = freeze()
    assert (again.number, again.subjects) == (2, first.subjects)


def test_what_keeps_everybody_from_being_held_out_is_said(place: Place) -> None:
    found = load(place)
    split(place, found)
    redraw(place)
    with pytest.raises(TooFewLabels, match="min_labelled"):
        split(place, found.select(np.arange(len(found)) < 10))
    with pytest.raises(MissingScene, match=f"No labelled window of {found.scene_names[1]}"):
        split(place, found.select(found.scenes != 1))
    with pytest.raises(TooFewSubjects):
        split(place, found.select(np.isin(found.subjects, ["p1", "p2"])))


def test_settings_that_name_the_same_do_not_pass_for_others(place: Place) -> None:
    found = load(place)
    named = place.settings('[data]\nholdout_subjects = ["p1"]')
    _, frozen = frozen_split(named, found, cohort="target", name=None, lake_version=1)
    with pytest.raises(RunError, match=r"Others than p1 .* \[data\] holdout_subjects names just these"):
        retire(named, "target", why="", redraw=True)
    assert holdouts(named).current("target") == frozen, "nothing is retired"
    assert retire(named, "target", why="", redraw=False).retired, "the same people anew are no contradiction"
    frozen_split(named, found, cohort="target", name=None, lake_version=1)
    redraw(place)  # by somebody with other settings
    with pytest.raises(RunError, match="names just these"):
        frozen_split(named, found, cohort="target", name=None, lake_version=1)


def test_settings_that_name_others_do_not_change_it_in_silence(place: Place) -> None:
    found = load(place)
    _, frozen = split(place, found)
    other = next(subject for subject in sorted(set(found.subjects.tolist())) if subject not in frozen.subjects)
    more = f'[data]\nholdout_subjects = ["{other}"]'
    with pytest.raises(RunError, match=f"names {other}, but cohort target's holdout {frozen.name} was frozen with"):
        split(place, found, more=more)
    holdouts(place.settings()).retire("target", why="", redraw=True)
    _, named = split(place, found, more=more)
    assert named.subjects == (other,)


def test_nobody_of_it_is_in_this_version(place: Place) -> None:
    found = load(place)
    mask, _ = split(place, found)
    with pytest.raises(RunError, match="None of the people of holdout"):
        split(place, found.select(mask.train))


def test_none_of_its_windows_is_left_though_its_people_are(place: Place) -> None:
    """They have been cut or labelled anew: other windows were never asked, and none is no measure."""
    found = load(place)
    mask, _ = split(place, found)
    renamed = np.where(mask.holdout, np.char.add("x", found.window_ids), found.window_ids)
    with pytest.raises(RunError, match=r"None of the windows of holdout .*renew-holdout"):
        split(place, dataclasses.replace(found, window_ids=renamed))
