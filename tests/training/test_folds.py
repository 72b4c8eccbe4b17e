from __future__ import annotations

from dataclasses import replace
from itertools import chain, combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.dataset import UNLABELLED, WindowSet
from training.errors import DataError, MissingScene, TooFewLabels, TooFewSubjects
from training.folds import grouped_folds, split_by_subject

from .made import SCENES, windows


@st.composite
def grouped(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int, int]:
    count = draw(st.integers(1, 60))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    groups = rng.integers(0, draw(st.integers(1, 12)), count) * 7
    labels = rng.choice([0, 2, 5], count, p=[0.7, 0.2, 0.1])
    return groups, labels, draw(st.integers(1, 6)), draw(st.integers(0, 99))


@given(grouped())
def test_folds_never_split_a_group_and_none_is_empty(made: tuple[np.ndarray, np.ndarray, int, int]) -> None:
    groups, labels, folds, seed = made
    fold = grouped_folds(groups, labels, folds, rng=np.random.default_rng(seed))
    assert fold.shape == groups.shape
    people = np.unique(groups)
    assert all(len(set(fold[groups == person].tolist())) == 1 for person in people)
    assert sorted(set(fold.tolist())) == list(range(min(folds, len(people))))
    np.testing.assert_array_equal(fold, grouped_folds(groups, labels, folds, rng=np.random.default_rng(seed)))


def test_each_label_is_shared_out_over_the_folds() -> None:
    """The rare label is with four people of twelve: each of four folds gets one of them."""
    groups = np.repeat(np.arange(12), 10)
    labels = np.where((groups % 3 == 0) & (np.arange(120) % 10 < 2), 1, 0)
    for seed in range(20):
        fold = grouped_folds(groups, labels, 4, rng=np.random.default_rng(seed))
        assert [int((labels[fold == f] == 1).sum()) for f in range(4)] == [2, 2, 2, 2]
        assert [int((fold == f).sum()) for f in range(4)] == [30, 30, 30, 30]


def people_with(*scenes_of: str, each: int = 3) -> WindowSet:
    """A person for each text; ``"RS"`` has windows of Run and Still, ``"u"`` ones that nobody labelled."""
    index = {"R": 0, "S": 1, "W": 2, "u": UNLABELLED}
    made = windows(people=1, each=1)
    scenes = [index[letter] for text in scenes_of for letter in text for _ in range(each)]
    subjects = [f"p{at}" for at, text in enumerate(scenes_of) for _ in range(each * len(text))]
    count = len(scenes)
    return replace(
        made.select(np.zeros(count, np.int64)), scenes=np.asarray(scenes, np.int64), subjects=np.asarray(subjects),
        sessions=np.asarray([f"s{i}" for i in range(count)]), devices=np.asarray([f"d-{s}" for s in subjects]),
        window_ids=np.asarray([f"w{i}" for i in range(count)]),
    )  # fmt: skip


def can_be_split(made: WindowSet, required: list[int], min_train: int) -> bool:
    """Whether any way to hold out whole people leaves every scene on both sides, by trying all."""
    labelled = made.scenes != UNLABELLED
    people = sorted(set(made.subjects[labelled].tolist()))
    for held in chain.from_iterable(combinations(people, size) for size in range(1, len(people) - min_train + 1)):
        out = np.isin(made.subjects, held) & labelled
        if all((made.scenes[out] == s).any() and (made.scenes[labelled & ~out] == s).any() for s in required):
            return True
    return False


@given(
    st.lists(st.sets(st.sampled_from("RSWu"), min_size=1).map(lambda letters: "".join(sorted(letters))), min_size=1, max_size=7),
    st.floats(0.05, 0.95),
    st.integers(1, 2),
    st.integers(0, 5),
)  # fmt: skip
def test_a_split_keeps_all_scenes_on_both_sides_or_says_why_not(
    scenes_of: list[str], share: float, min_train: int, seed: int
) -> None:
    made = people_with(*scenes_of)
    present = [name for name, count in made.counts().items() if count]
    labelled = made.scenes != UNLABELLED
    required = [SCENES.index(name) for name in present]
    options: dict[str, Any] = {"share": share, "seed": seed, "scenes": present, "min_train_subjects": min_train}
    if not labelled.any() or not can_be_split(made, required, min_train):
        with pytest.raises((TooFewLabels, TooFewSubjects, MissingScene)):
            split_by_subject(made, **options)
        return
    split = split_by_subject(made, **options)
    np.testing.assert_array_equal(split.train | split.holdout, labelled)
    assert not (split.train & split.holdout).any()
    assert not set(made.subjects[split.train].tolist()) & set(made.subjects[split.holdout].tolist())
    assert len(set(made.subjects[split.train].tolist())) >= min_train
    assert split.holdout_subjects == tuple(sorted(set(made.subjects[split.holdout].tolist())))
    for side in (split.train, split.holdout):
        assert {SCENES[s] for s in set(made.scenes[side].tolist())} == set(present)
    np.testing.assert_array_equal(split_by_subject(made, **options).holdout, split.holdout)


def test_the_share_is_that_of_the_people() -> None:
    made = windows(people=10, each=2)
    for share, held in ((0.3, 3), (0.5, 5), (0.01, 1), (0.99, 9)):
        assert len(split_by_subject(made, share=share).holdout_subjects) == held


def test_more_people_are_held_out_where_the_share_cannot_have_every_scene() -> None:
    """Each person did one thing: whoever is held out alone lacks two scenes."""
    split = split_by_subject(people_with("R", "S", "W", "R", "S", "W"), share=0.2)
    assert len(split.holdout_subjects) == 3


def test_people_who_share_a_session_stay_together() -> None:
    made = windows(people=4, each=2)
    joined = np.isin(made.subjects, ["p1", "p3"])
    shared = replace(
        made, sessions=np.where(joined, "shared", made.sessions), devices=np.where(joined, "d", made.devices)
    )
    for seed in range(8):
        held = set(split_by_subject(shared, share=0.34, seed=seed).holdout_subjects)
        assert held.isdisjoint({"p1", "p3"}) or held >= {"p1", "p3"}


def test_people_can_be_named() -> None:
    made = windows(people=4, each=2)
    assert split_by_subject(made, share=0.3, subjects=("p2", "p0")).holdout_subjects == ("p0", "p2")
    with pytest.raises(DataError, match=r"\[data\] holdout_subjects names 'p22'.*did you mean 'p2'\?"):
        split_by_subject(made, share=0.3, subjects=("p22",))
    with pytest.raises(DataError, match=r"names 'anna', who has no labelled window; p0, p1, p2, p3 have\."):
        split_by_subject(made, share=0.3, subjects=("anna",))
    with pytest.raises(TooFewSubjects, match="with p0, p1, p2, p3 held out, fewer than 1 are left"):
        split_by_subject(made, share=0.3, subjects=("p0", "p1", "p2", "p3"))


@pytest.mark.parametrize(
    ("made", "options", "error", "message"),
    [
        (people_with("RSW", "RSW"), {"min_labelled": 40}, TooFewLabels,
         r"18 labelled windows \(Run 6, Still 6, Walk 6\) of 2 people; at least 40 .*\[data\] min_labelled"),
        (people_with("u", "u"), {}, TooFewLabels, "0 labelled windows .* of 0 people; at least 1 labelled"),
        (people_with("RS", "RSu"), {}, MissingScene, r"No labelled window of Walk: .*\[data\] scenes"),
        (people_with("RS", "RS"), {"scenes": ("Run", "Bus")}, MissingScene, "No labelled window of Bus"),
        (people_with("RSW", "u"), {}, TooFewSubjects, "of 1 people; at least 2 with labels"),
        (people_with("RSW", "RSW"), {"min_train_subjects": 2}, TooFewSubjects, "at least 3 with labels"),
        (people_with("RSW", "RS", "RS"), {}, MissingScene, "No labelled window of Walk among the people to (train|hold)"),
        (people_with("RSW", "RSW", "RS"), {"subjects": ("p2",)}, MissingScene, "Walk among the people to hold out"),
        (people_with("RSW", "RSW", "RS"), {"subjects": ("p0", "p1")}, MissingScene, "Walk among the people to train on"),
    ],
)  # fmt: skip
def test_what_is_missing_is_said(
    made: WindowSet, options: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        split_by_subject(made, share=0.3, **options)  # type: ignore[arg-type]
