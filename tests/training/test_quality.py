from __future__ import annotations

import sys
from dataclasses import replace
from functools import cache, partial
from unittest.mock import patch

import numpy as np
import pytest
from cleanlab.rank import get_normalized_margin_for_each_label
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import roc_auc_score

from tests.training.made import network, windows
from training import asked
from training import quality as module
from training.dataset import WindowSet
from training.embeddings import features_of
from training.errors import ModelError
from training.folds import out_of_fold
from training.heads import Head
from training.policies import Labelled
from training.quality import Quality, _by_heads, _margin, _neighbourhood, score_quality
from training.settings import QualitySettings
from training.tracking import no_progress
from training.traits import traits
from training.weights import choose_weights, effective_size, tiers_of


def flipped(share: float, seed: int = 0) -> tuple[WindowSet, np.ndarray]:
    """Windows of which a share have another label than they should, and which ones."""
    clean = windows(people=8, each=10, seed=seed)
    rng = np.random.default_rng(seed)
    wrong = rng.random(len(clean)) < share
    scenes = np.where(wrong, (clean.scenes + rng.integers(1, 3, len(clean))) % 3, clean.scenes)
    return replace(clean, scenes=scenes), wrong


def scored(labelled: WindowSet, train: np.ndarray | None = None) -> Quality:
    net = network()
    everything = np.ones(len(labelled), bool)
    return score_quality(
        labelled, features_of(net, labelled), Head.of(net), train=everything if train is None else train
    )


@cache
def scored_once() -> Quality:
    return scored(flipped(0.2)[0])


def test_heads_that_judge_a_person_have_not_seen_that_persons_labels() -> None:
    """Whatever one person says of all their windows, these heads see them as before; those that leave out a session alone do not."""
    made = windows(people=4, each=10)
    net, train = network(), np.ones(len(made), bool)
    features = features_of(net, made)
    settings = replace(QualitySettings(), folds=4)
    near = _neighbourhood(np.arange(len(made)), made.groups(), features, settings.neighbours)

    def judged(windows: WindowSet) -> dict[str, np.ndarray]:
        return module._judges(
            windows, (features, traits(made.signals, made.channels)), np.ones(len(made)), Head.of(net),
            (np.arange(len(made)), near), train=train, settings=settings, seed=0, progress=no_progress,
        )  # fmt: skip

    theirs = made.subjects == "p2"
    before = judged(made)
    after = judged(replace(made, scenes=np.where(theirs, (made.scenes + 1) % 3, made.scenes)))
    for judge, seen in before.items():
        same = np.allclose(seen[theirs], after[judge][theirs])
        assert same == ("session" not in judge), judge
        assert judge == module._ORIGINAL or not np.allclose(seen[~theirs], after[judge][~theirs]), judge


def test_planted_wrong_labels_score_lower() -> None:
    labelled, wrong = flipped(0.2)
    quality = scored(labelled)
    assert roc_auc_score(~wrong, quality.score) > 0.95
    for look in (quality.margin, quality.neighbours, quality.original, quality.physical, quality.score):
        assert look.shape == (len(labelled),)
        assert (look >= 0).all()
        assert (look <= 1).all()
    reasons = quality.reasons(labelled)
    assert sum(bool(reasons[i]) for i in np.flatnonzero(wrong)) > 0.9 * wrong.sum()


def test_what_the_original_cannot_tell_apart_is_seen_in_the_signals() -> None:
    """Its features are the same of every window: all that looks through it has nothing to say."""
    labelled, wrong = flipped(0.2)
    blind = np.zeros((len(labelled), 8))
    head = Head(weight=np.zeros((3, 8)), bias=np.zeros(3))
    quality = score_quality(labelled, blind, head, train=np.ones(len(labelled), bool))
    assert roc_auc_score(~wrong, quality.belief) > 0.95
    assert sum(share for judge, share in quality.trust.items() if judge.startswith("signals")) > 0.7
    once = score_quality(labelled, blind, head, train=np.ones(len(labelled), bool), settings=QualitySettings(rounds=1))
    assert set(quality.trust) - set(once.trust) == {"signals, unmixed"}, "nobody knows yet what windows show"
    doubted = np.array(quality.reasons(labelled))[wrong & (quality.belief < 0.5)]
    assert all("its signals look like another scene's" in reason for reason in doubted)


def test_what_is_verified_is_believed_whatever_the_judges_see() -> None:
    labelled, wrong = flipped(0.2)
    known = replace(labelled, verified=wrong & (np.arange(len(wrong)) % 2 == 0))
    quality = scored(known)
    assert known.verified is not None
    assert (quality.belief[known.verified] == 1).all()
    assert quality.score[known.verified].min() > 0.8
    assert quality.worth(known.scenes, known.verified).min() == 1
    assert quality.belief[wrong & ~known.verified].mean() < 0.6
    reasons = quality.reasons(known)
    told = [reasons[at] for at in np.flatnonzero(known.verified) if reasons[at]]
    assert told
    assert all(reason.startswith("believed all the same, as it is verified") for reason in told)
    assert not any("verified" in reason for reason in np.array(reasons, object)[~known.verified])


def test_a_holdouts_labels_teach_nothing() -> None:
    """Changing every label of the people held out leaves the scores of the others as they are, bit for bit."""
    labelled, _ = flipped(0.2)
    train = ~np.isin(labelled.subjects, ["p0", "p1"])
    other = replace(labelled, scenes=np.where(train, labelled.scenes, (labelled.scenes + 1) % 3), verified=~train)
    one, two = scored(labelled, train), scored(other, train)
    np.testing.assert_array_equal(one.margin[train], two.margin[train])
    np.testing.assert_array_equal(one.neighbours[train], two.neighbours[train])
    np.testing.assert_array_equal(one.belief[train], two.belief[train])
    np.testing.assert_array_equal(one.score[train], two.score[train])
    assert (one.trust, one.temperature, one.wrong) == (two.trust, two.temperature, two.wrong)


def test_a_signal_that_is_poor_for_its_scene_is_worth_less() -> None:
    """A scene where all phones drop samples loses nothing: those that are to be recognised do, too."""
    made = windows(people=4, each=6)
    coverage = np.where(made.scenes == 0, 0.4, 0.9)
    poor = np.arange(len(made)) % 6 == 0
    gaps = replace(made, coverage=np.where(poor, coverage / 5, coverage).astype(np.float32))
    quality, everything = scored(gaps), np.ones(len(made), bool)
    np.testing.assert_array_equal(quality.belief, scored(made).belief)
    worth = quality.worth(gaps.scenes, everything)
    np.testing.assert_allclose(worth[poor], 0.4 * quality.belief[poor], rtol=1e-5)
    np.testing.assert_array_equal(worth[~poor], quality.belief[~poor])
    assert all("coverage 0." in reason for reason in np.array(quality.reasons(gaps))[poor])
    train = gaps.subjects != "p0"
    data = Labelled.of(gaps, np.ones((len(made), 2)), quality, Head.of(network()), rows=train)
    np.testing.assert_array_equal(data.worth, worth[train])
    assert len(data.labels) == len(data.groups) == len(data.score) == len(data.features) == train.sum()


def test_no_signal_at_all_in_a_scene_divides_nothing_by_nothing() -> None:
    made = windows(people=3, each=3)
    dead = replace(made, coverage=np.where(made.scenes == 1, 0, 1).astype(np.float32))
    assert np.isfinite(scored(dead).worth(dead.scenes, np.ones(len(made), bool))).all()


def test_hardly_a_signal_in_a_scene_divides_nothing_by_nothing() -> None:
    quality = replace(scored_once(), belief=np.ones(3), physical=np.array([0, 5e-324, 5e-324]))
    worth = quality.worth(np.zeros(3, np.int64), np.ones(3, bool))
    assert np.isfinite(worth).all()


def test_a_model_of_one_scene_judges_no_labels() -> None:
    made = windows()
    one = made.select(made.scenes == 0).with_scenes(made.scene_names[:1])
    head = Head.of(network())
    with pytest.raises(ModelError, match="at least two scenes"):
        score_quality(
            one, np.ones((len(one), 4)), Head(weight=head.weight[:1], bias=head.bias[:1]), train=np.ones(len(one), bool)
        )


def test_heads_judge_on_the_way_as_well() -> None:
    """As a mean of heads that have learned less than the last: they are less sure."""
    labelled, _ = flipped(0.2)
    net, people, ones = network(), labelled.groups(), np.ones(len(labelled))
    by_heads = partial(
        _by_heads, features_of(net, labelled), labelled.scenes, ones, Head.of(net), QualitySettings().pulls
    )
    names = ("pull 0.001", "pull 1e-05", "on the way")
    found = out_of_fold(
        names, by_heads, labelled.scenes, people, 3, train=ones > 0, folds=4, seed=0, progress=no_progress
    )
    assert found.keys() == {"pull 0.001", "pull 1e-05", "on the way"}
    for each in found.values():
        np.testing.assert_allclose(each.sum(1), 1)
    assert found["on the way"].max(1).mean() < found["pull 1e-05"].max(1).mean() - 0.01
    assert {"heads without the person, on the way", "heads without the session, on the way"} <= scored(
        labelled
    ).trust.keys()


def test_one_person_alone_is_judged_by_what_is_left() -> None:
    """Nobody else to learn from: the heads of other people have no opinion, and nothing is NaN."""
    quality = scored(windows(people=1, each=6))
    assert np.isfinite(quality.score).all()
    assert sum(quality.trust.values()) == pytest.approx(1)


def test_tiers() -> None:
    assert tiers_of(np.array([0.0, 0.39, 0.4, 0.5, 0.55, 1.0]), (0.4, 0.55)).tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(("weights", "size"), [([1, 1, 1, 1], 4), ([2, 2], 2), ([1, 0, 0], 1), ([0, 0], 0)])
def test_effective_size(weights: list[float], size: float) -> None:
    assert effective_size(np.array(weights, float)) == pytest.approx(size)


def test_cross_validation_distrusts_the_lowest_tier_where_labels_are_wrong() -> None:
    # Of one scene, and always to the same other one: wrong labels that nobody could tell apart would not matter to people left out.
    clean = windows(people=8, each=10, seed=2)
    wrong = (clean.scenes == 0) & (np.random.default_rng(2).random(len(clean)) < 0.3)
    labelled = replace(clean, scenes=np.where(wrong, 1, clean.scenes))
    net = network()
    features = features_of(net, labelled)
    # Whoever judges labels: of six in seven that are wrong it is known, and of one in ten that is right it is doubted.
    draw = np.random.default_rng(3).random(len(clean))
    belief = np.where(wrong ^ (draw < np.where(wrong, 1 / 7, 0.1)), 0.1, 0.9)
    chosen = choose_weights(
        features, labelled.scenes, labelled.groups(), belief, belief, head=Head.of(net), settings=QualitySettings()
    )
    weights = chosen.of(tiers_of(belief, QualitySettings().thresholds))
    assert min(chosen.weights) >= QualitySettings().floor
    assert list(chosen.weights) == sorted(chosen.weights)
    assert weights[wrong].mean() < weights[~wrong].mean()


@pytest.mark.parametrize("library", ["faiss", "scikit-learn"])
@given(
    directions=arrays(np.int8, (40, 3), elements=st.integers(-3, 3)),
    people=arrays(np.int64, 40, elements=st.integers(0, 1)),
    voters=st.sets(st.integers(0, 39)),
    count=st.integers(1, 25),
)
def test_neighbours_are_the_nearest_voters_of_other_people(
    library: str, directions: np.ndarray, people: np.ndarray, voters: set[int], count: int
) -> None:
    features = directions.astype(np.float32)
    asked = np.array(sorted(voters), np.int64)
    without = {"faiss": None} if library == "scikit-learn" else {}
    with patch.dict(sys.modules, without):
        near = _neighbourhood(asked, people, features, count)
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    for at, row in enumerate(near):
        others = asked[people[asked] != people[at]]
        found = row[: min(count, len(others))]
        assert set(found) <= set(others)
        assert len(set(found)) == len(found)
        assert (row[len(found) :] == -1).all()
        # Of equals it may be any: it is their similarities that must be the largest, the largest first.
        expected = np.sort(unit[others] @ unit[at])[::-1][: len(found)]
        np.testing.assert_allclose(unit[found] @ unit[at], expected, atol=1e-6)


def test_features_that_are_not_finite_are_refused() -> None:
    labelled, _ = flipped(0.2)
    features = features_of(network(), labelled).copy()
    features[3] = np.nan
    signals = labelled.signals.copy()
    signals[3, 0, 5] = 3e38
    labelled = replace(labelled, signals=signals)
    first = f"of 1 windows, the first in session {labelled.sessions[3]} of {labelled.devices[3]}, whose largest value is 3e\\+38"
    with pytest.raises(ModelError, match=first):
        score_quality(labelled, features, Head.of(network()), train=np.ones(len(labelled), bool))


def test_without_faiss_the_same_are_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU node that has nothing but torch and scikit-learn."""
    labelled, _ = flipped(0.2)
    with_it = scored(labelled)
    monkeypatch.setitem(sys.modules, "faiss", None)
    without = scored(labelled)
    np.testing.assert_allclose(without.neighbours, with_it.neighbours, atol=1e-12)
    np.testing.assert_allclose(without.score, with_it.score, atol=1e-12)


def test_margins_are_those_of_cleanlab() -> None:
    rng = np.random.default_rng(0)
    probabilities, labels = rng.dirichlet(np.ones(4), 50), rng.integers(0, 4, 50)
    expected = get_normalized_margin_for_each_label(labels, probabilities)
    np.testing.assert_allclose(_margin(probabilities, labels), expected)


def test_a_reason_says_what_the_window_looks_like_and_what_is_poor_about_it() -> None:
    labelled, wrong = flipped(0.2)
    reasons = scored(labelled).reasons(labelled)
    told = [reasons[at] for at in np.flatnonzero(wrong) if reasons[at]]
    truth = windows(people=8, each=10).scenes
    named = [f"it looks like {labelled.scene_names[truth[at]]}" in reasons[at] for at in np.flatnonzero(wrong)]
    assert np.mean(named) > 0.9
    assert all("(0." in text for text in told)
    dead = replace(labelled, signals=np.zeros_like(labelled.signals))
    assert "the signal is poor (channels that move 0.00, gravity 0.00)" in scored(dead).reasons(dead)[0]


def test_asking_only_some_still_finds_the_wrong_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    labelled, wrong = flipped(0.2)
    monkeypatch.setattr(asked, "_ASKED", len(labelled) // 3)
    assert roc_auc_score(~wrong, scored(labelled).score) > 0.9
