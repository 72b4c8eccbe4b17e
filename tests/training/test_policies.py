from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from training import asked, policies
from training.arm import EVERY, POLICIES
from training.errors import SettingsError
from training.heads import Head, HeadProblem, fit_head
from training.learned import TIE, WeightMap, even_in_each, even_together, held_out_loss, learn_map
from training.policies import Labelled, weigh
from training.quality import adjustment
from training.settings import QualitySettings
from training.weights import floored, held_out_logits, through_floor

QUALITY = QualitySettings()


def labelled(*, wrong: float = 0.25, seed: int = 0) -> tuple[Labelled, np.ndarray]:
    """Three scenes in four dimensions, six people; a belief that knows most of the wrong labels. And where they are."""
    rng = np.random.default_rng(seed)
    truth, groups = np.repeat(np.arange(3), 40), np.tile(np.arange(6), 20)
    features = np.abs(rng.normal(0, 1, (120, 4)) + 3 * np.eye(3, 4)[truth])
    bad = rng.random(120) < wrong
    labels = np.where(bad, (truth + 1) % 3, truth)
    belief = np.clip(np.where(bad, 0.15, 0.9) + rng.normal(0, 0.08, 120), 0.01, 0.99)
    head = Head(weight=rng.normal(0, 0.1, (3, 4)), bias=np.zeros(3))
    data = Labelled(
        features=features,
        labels=labels.astype(np.int64),
        groups=groups,
        score=belief,
        worth=belief,
        head=head,
        wrong=bad,
    )
    return data, bad


@pytest.mark.parametrize("policy", POLICIES)
def test_what_is_wrong_weighs_less_and_nothing_is_erased(policy: str) -> None:
    data, bad = labelled()
    found = weigh(policy, data, QUALITY, seed=0)  # type: ignore[arg-type]
    assert found.weights.shape == (120,)
    assert found.weights.min() >= QUALITY.floor - 1e-12
    assert found.weights[bad].mean() < 0.6 * found.weights[~bad].mean()
    assert found.details
    again = weigh(policy, data, QUALITY, seed=0)  # type: ignore[arg-type]
    assert (again.weights == found.weights).all()


@pytest.mark.parametrize("policy", POLICIES)
def test_a_scene_whose_labels_nobody_believes_keeps_a_quarter_of_its_weight(policy: str) -> None:
    data, _ = labelled()
    nobodys = data.labels == 2
    doubtful = np.where(nobodys, data.worth / 50, data.worth)
    found = weigh(policy, replace(data, worth=doubtful, score=doubtful), QUALITY, seed=0)  # type: ignore[arg-type]
    assert found.weights[nobodys].mean() >= 0.25 - 1e-12
    assert found.weights.max() <= 1


def test_slopes_through_what_a_scene_keeps_are_those_of_differences() -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 3, 60)
    weights = np.where(labels == 0, rng.uniform(0.02, 0.3, 60), rng.uniform(0.02, 1, 60))  # scene 0 is below a quarter
    outer, step = rng.normal(0, 1, (2, 60))
    around = (
        outer @ (floored(weights + 1e-6 * step, labels, 0.01) - floored(weights - 1e-6 * step, labels, 0.01)) / 2e-6
    )
    slopes = through_floor(weights, labels, outer)
    assert slopes @ step == pytest.approx(around, rel=1e-5)
    assert not np.allclose(slopes[labels == 0], outer[labels == 0])
    np.testing.assert_array_equal(slopes[labels != 0], outer[labels != 0])


def test_heads_that_begin_where_those_of_like_weights_ended_are_the_same() -> None:
    data, _ = labelled(wrong=0.4)
    fold, heads = data.groups % 3, dict[int, Head]()
    for power in (1, 2, 4):
        weights = data.worth**power
        arguments = {"head": data.head, "pull": 1e-5, "adjust": True}
        warm = held_out_logits(data.features, data.labels, weights, fold, heads=heads, **arguments)  # type: ignore[arg-type]
        cold = held_out_logits(data.features, data.labels, weights, fold, **arguments)  # type: ignore[arg-type]
        np.testing.assert_allclose(warm, cold, atol=5e-2)
        np.testing.assert_array_equal(warm.argmax(1), cold.argmax(1))
    assert heads.keys() == {0, 1, 2}


@given(
    weights=arrays(np.float64, 12, elements=st.floats(0, 1)),
    labels=arrays(np.int64, 12, elements=st.integers(0, 2)),
)
def test_what_a_scene_regains_is_the_same_part_of_what_each_window_lost(
    weights: np.ndarray, labels: np.ndarray
) -> None:
    found, least = floored(weights, labels, QUALITY.floor), np.maximum(weights, QUALITY.floor)
    for scene in np.unique(labels):
        mine = labels == scene
        before = least[mine].mean()
        assert found[mine].mean() == pytest.approx(max(before, 0.25))
        lost = 1 - least[mine]
        expected = lost * (1 - found[mine].mean()) / (1 - before) if before < 1 else 0
        np.testing.assert_allclose(1 - found[mine], expected, atol=1e-12)


def test_auto_says_why_and_does_nothing_where_nothing_helps() -> None:
    data, _ = labelled()
    found = weigh("auto", data, QUALITY, seed=0)
    assert found.details["policy"] in {"per_sample", "learned"}
    assert "equal weights" in found.details["why"]
    clean, _ = labelled(wrong=0.0)
    flat = weigh("auto", replace(clean, worth=np.full(120, 0.9), score=np.full(120, 0.9)), QUALITY, seed=0)
    assert flat.details["policy"] == "per_sample"
    assert np.ptp(flat.weights) == 0


@pytest.mark.parametrize("doubted", [0.07, 0.09])
def test_auto_weighs_nothing_where_hardly_a_window_is_doubted(doubted: float) -> None:
    """The few that are doubted are hard, not wrong, as often as not; who doubts more of them leaves it to people left out."""
    data, _ = labelled()
    worth = 1 - doubted + np.where(np.arange(120) % 2, 0.01, -0.01)
    found = weigh("auto", replace(data, worth=worth), QUALITY, seed=0)
    assert ("hardly a window is doubted" in found.details["why"]) == (doubted < 0.08)
    assert ("among people left out" in found.details["why"]) == (doubted > 0.08)
    if doubted < 0.08:
        np.testing.assert_array_equal(found.weights, np.ones(120))
    np.testing.assert_array_equal(found.believed, np.ones(120) if doubted < 0.08 else worth)


def test_a_rare_scene_whose_labels_are_doubted_is_enough_for_weights() -> None:
    data, _ = labelled()
    rows = np.sort(np.concatenate([np.flatnonzero(data.labels == 0)[:12], np.flatnonzero(data.labels > 0)]))
    rare = replace(
        data, **{name: getattr(data, name)[rows] for name in ("features", "labels", "groups", "score", "worth")}
    )
    worth = np.where(rare.labels == 0, 0.5, 1.0)
    assert 1 - worth.mean() < 0.08, "of all windows, few are doubted"
    assert weigh("auto", replace(rare, worth=worth), QUALITY, seed=0).details["policy"] != "equal"


def test_auto_takes_the_belief_where_one_person_has_labelled_all() -> None:
    data, _ = labelled()
    found = weigh("auto", replace(data, groups=np.zeros(120, np.int64)), QUALITY, seed=0)
    np.testing.assert_array_equal(found.weights, np.maximum(data.worth, QUALITY.floor))
    assert "nobody is left out" in found.details["why"]


@pytest.mark.parametrize(("helped", "hurt", "policy"), [((0,), (5,), "per_sample"), (range(6), (), "equal")])
def test_auto_leaves_the_belief_only_for_what_is_better_beyond_chance(
    helped: Sequence[int], hurt: Sequence[int], policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With equal weights one person is recognised who is not otherwise, and another less; or everybody is."""
    data, _ = labelled()

    def recognised(data: Labelled, weights: np.ndarray, *_: object) -> np.ndarray:
        place = np.arange(len(data.labels)) // 6  # of a window among its person's
        right = place % 2 == 0
        if np.ptp(weights) == 0:
            right = (right | np.isin(data.groups, helped)) & ~(np.isin(data.groups, hurt) & (place % 4 == 0))
        return np.where(right, data.labels, (data.labels + 1) % 3)

    monkeypatch.setattr(policies, "_left_out", recognised)
    monkeypatch.setattr(policies, "_learned_left_out", lambda data, *_: recognised(data, data.worth))
    assert weigh("auto", data, QUALITY, seed=0).details["policy"] == policy


def test_whoever_judges_the_learned_map_has_not_taught_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """What somebody's windows are called, and how much of it is believed, is nothing to those who recognise them."""
    data, _ = labelled(wrong=0.4)
    seen: list[np.ndarray] = []

    def judged(data: Labelled) -> np.ndarray:
        weigh("auto", data, QUALITY, seed=0)
        return seen.pop()

    def noted(*args: Any) -> np.ndarray:
        seen.append(left_out(*args))
        return seen[-1]

    left_out = policies._learned_left_out
    monkeypatch.setattr(policies, "grouped_folds", lambda groups, *_, **__: groups % 3)
    monkeypatch.setattr(policies, "_learned_left_out", noted)
    before, mine = judged(data), data.groups % 3 == 1
    labels = np.where(mine, (data.labels + 1) % 3, data.labels)
    after = judged(replace(data, labels=labels, worth=np.where(mine, 1 - data.worth, data.worth)))
    np.testing.assert_array_equal(after[mine], before[mine])
    assert (after[~mine] != before[~mine]).any()


def test_the_conventional_ones() -> None:
    data, bad = labelled()
    assert (weigh("equal", data, QUALITY, seed=0).weights == 1).all()
    balanced = weigh("balanced", data, QUALITY, seed=0).weights
    sums = np.bincount(data.labels, weights=balanced)
    np.testing.assert_allclose(sums, sums[0])
    oracle = weigh("oracle", data, QUALITY, seed=0)
    assert ((oracle.weights == 0) == bad).all()
    pruned = weigh("pruned", data, QUALITY, seed=0).weights
    assert pruned[bad].mean() < 0.4
    assert pruned[~bad].mean() > 0.8
    with pytest.raises(SettingsError, match="planted"):
        weigh("oracle", replace(data, wrong=None), QUALITY, seed=0)


def test_every_arm_has_a_policy_that_there_is() -> None:
    data, _ = labelled()
    for arm in EVERY.values():
        assert weigh(arm.weights, data, QUALITY, seed=0).weights.sum() > 0


def test_what_is_verified_says_nothing_of_how_doubtful_the_others_are() -> None:
    """With three right labels for each that is doubted, hardly a label is doubted, and those that are weigh as little as ever."""
    data, bad = labelled()
    right, _ = labelled(wrong=0.0, seed=1)

    def both(name: str) -> np.ndarray:
        one, other = getattr(data, name), getattr(right, name)
        return np.concatenate([one, *[other] * 3])

    arrays = {name: both(name) for name in ("features", "labels", "score")}
    verified = np.arange(480) >= 120
    arrays["groups"] = np.where(verified, 6, both("groups"))  # one person, so that the verified do not judge alone
    beside = replace(data, **arrays, worth=np.where(verified, 1.0, both("worth")), verified=verified, wrong=None)
    found = weigh("auto", beside, QUALITY, seed=0)
    assert found.weights[:120][bad].mean() < 0.5 * found.weights[:120][~bad].mean()
    assert weigh("auto", replace(beside, verified=None), QUALITY, seed=0).details["policy"] == "equal"


@pytest.mark.parametrize("policy", POLICIES)
def test_of_very_many_some_choose_and_all_are_weighed(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those alone would have it: the same map of score or belief, for everybody."""
    data, bad = labelled()
    monkeypatch.setattr(asked, "_ASKED", 60)
    monkeypatch.setattr(asked, "_OF_A_SCENE", 5)
    found = weigh(policy, data, QUALITY, seed=0)  # type: ignore[arg-type]
    assert found.weights.shape == found.believed.shape == (120,)
    assert found.weights[bad].mean() < 0.6 * found.weights[~bad].mean()
    rows = asked.as_they_come(data.labels, 0)
    assert len(rows) <= 60
    monkeypatch.setattr(asked, "_ASKED", 120)
    alone = weigh(policy, data.some(rows), QUALITY, seed=0)  # type: ignore[arg-type]
    assert alone.details == found.details


class TestLearned:
    @pytest.mark.parametrize(("even", "near"), [(even_in_each, 5e-5), (even_together, 1e-4)])
    def test_the_slope_by_the_weights_is_that_of_refitting(
        self, even: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray], near: float
    ) -> None:
        """Against differences of whole fits; the logit adjustment moves with the weights, too."""
        data, _ = labelled()
        fold = data.groups % 3
        weights = np.clip(data.worth, 0.05, 1)
        arguments = {"head": data.head, "pull": 1e-2}
        importance = even(data.labels, data.worth, fold)

        def loss(each: np.ndarray) -> float:
            value, _ = held_out_loss(data.features, data.labels, each, importance, fold, **arguments)  # type: ignore[arg-type]
            return value

        _, slopes = held_out_loss(data.features, data.labels, weights, importance, fold, **arguments)  # type: ignore[arg-type]
        rng = np.random.default_rng(1)
        for _ in range(4):
            step = rng.normal(0, 1, 120)
            around = (loss(weights + 1e-2 * step) - loss(weights - 1e-2 * step)) / 2e-2
            assert slopes @ step == pytest.approx(around, rel=0.01, abs=near)

    def test_the_slope_of_a_scene_that_weighs_next_to_nothing_is_that_of_refitting(self) -> None:
        """Its share of the adjustment is that of half a window then, which nothing moves."""
        data, _ = labelled()
        fold = data.groups % 3
        weights = np.where(data.labels == 0, 1e-3, np.clip(data.worth, 0.05, 1))

        importance = even_in_each(data.labels, data.worth, fold)

        def loss(each: np.ndarray) -> tuple[float, np.ndarray]:
            return held_out_loss(data.features, data.labels, each, importance, fold, head=data.head, pull=1e-2)

        step = np.random.default_rng(2).normal(0, 1, 120)
        around = (loss(weights + 1e-4 * step)[0] - loss(weights - 1e-4 * step)[0]) / 2e-4
        assert loss(weights)[1] @ step == pytest.approx(around, rel=0.02, abs=5e-4)

    def test_it_rises_with_belief_and_does_not_do_worse_than_the_belief_itself(self) -> None:
        data, _ = labelled(wrong=0.4)
        fold = data.groups % 3
        found = learn_map(data.features, data.labels, data.worth, fold, head=data.head, pull=1e-3, floor=0.02)
        grid = np.linspace(0.01, 0.99, 50)
        assert (np.diff(found.of(grid)) >= 0).all()
        start = WeightMap(slope=1.0, shift=0.0, floor=0.02)

        def reached(which: WeightMap) -> float:
            importance = even_in_each(data.labels, data.worth, fold)
            return held_out_loss(
                data.features, data.labels, which.of(data.worth), importance, fold, head=data.head, pull=1e-3
            )[0]

        assert reached(found) <= reached(start) + 1e-9

    def test_the_search_ends_where_nothing_is_gained_any_more(self) -> None:
        """Told another slope than the loss has, it gave up at its first step, with slope 1 and shift 0; one scene is at what it keeps."""
        data, _ = labelled()
        worth = np.where(data.labels == 2, data.worth / 6, data.worth)
        fold, pull, floor = data.groups % 3, 1e-4, 0.02
        found = learn_map(data.features, data.labels, worth, fold, head=data.head, pull=pull, floor=floor)

        def loss(slope: float, shift: float) -> float:
            weights = floored(WeightMap(slope=slope, shift=shift, floor=floor).of(worth), data.labels, floor)
            importance = even_in_each(data.labels, worth, fold)
            held_out = held_out_loss(data.features, data.labels, weights, importance, fold, head=data.head, pull=pull)[
                0
            ]
            return held_out + TIE * ((slope - 1) ** 2 + shift**2)

        assert found.shift > 0.3
        assert loss(found.slope, found.shift) < loss(1.0, 0.0) - 1e-3
        by_slope = (loss(found.slope + 0.05, found.shift) - loss(found.slope - 0.05, found.shift)) / 0.1
        by_shift = (loss(found.slope, found.shift + 0.05) - loss(found.slope, found.shift - 0.05)) / 0.1
        assert abs(by_slope) < 5e-3
        assert abs(by_shift) < 5e-3

    @pytest.mark.parametrize("policy", ["learned", "auto"])
    def test_where_enough_labels_are_verified_they_alone_judge(self, policy: str) -> None:
        """Beliefs that have it all the wrong way round: those who judge by them cannot see it, the verified labels do."""
        data, bad = labelled()
        verified = ~bad & (np.arange(120) % 2 == 0)
        known = replace(data, worth=np.where(verified, 1.0, 1 - data.worth), verified=verified)
        by_belief = weigh(policy, replace(known, verified=None), QUALITY, seed=0)  # type: ignore[arg-type]
        by_verified = weigh(policy, known, QUALITY, seed=0)  # type: ignore[arg-type]
        assert by_verified.details["verified"] == verified.sum()
        assert "verified" not in by_belief.details

        def told_apart(weights: np.ndarray) -> float:
            return float(weights[bad].mean() / weights[~bad & ~verified].mean())

        assert told_apart(by_verified.weights) < 0.9 * told_apart(by_belief.weights)

    @pytest.mark.parametrize("lacks", ["four of a scene", "one person", "a poor signal"])
    def test_too_few_verified_labels_of_a_scene_judge_with_the_others(self, lacks: str) -> None:
        data, bad = labelled()
        some = {
            "four of a scene": np.cumsum(~bad & (data.labels == 1)) <= 4, "one person": data.groups == 0,
            "a poor signal": np.ones(120, bool),
        }[lacks]  # fmt: skip
        verified = ~bad & ((data.labels != 1) | some)
        worth = np.where(verified & (data.labels == 1) & (lacks == "a poor signal"), 0.4, data.worth)
        given = replace(data, worth=worth, verified=verified)
        few = weigh("learned", given, QUALITY, seed=0)
        usual = weigh("learned", replace(given, verified=None), QUALITY, seed=0)
        assert few.details == usual.details
        np.testing.assert_array_equal(few.weights, usual.weights)

    def test_scenes_count_alike_among_verified_labels_whoever_has_them(self) -> None:
        labels, fold = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 2, 2, 2])
        found = even_together(labels, np.array([1.0, 1.0, 0.5, 1.0, 0.0, 1.0]), fold)
        np.testing.assert_allclose(np.bincount(labels, weights=found) / 3, 1 / 3)
        each = even_in_each(labels, np.ones(6), fold)
        np.testing.assert_allclose(np.bincount(fold, weights=each), 1)

    def test_one_person_alone_judges_nobody(self) -> None:
        data, _ = labelled()
        found = learn_map(
            data.features, data.labels, data.worth, np.zeros(120, np.int64), head=data.head, pull=1e-3, floor=0.02
        )
        np.testing.assert_allclose(found.of(np.array([0.2, 0.8])), 0.02 + 0.98 * np.array([0.2, 0.8]))


def test_a_head_of_another_loss_is_at_its_optimum_too() -> None:
    data, _ = labelled()
    weights = np.ones(120)
    arm = EVERY["generalised-cross-entropy"]
    shift = adjustment(data.labels, weights, 3)
    found = fit_head(
        data.features, data.labels, weights, start=data.head, pull=1e-3, adjustment=shift, loss=arm.loss, iterations=500
    )
    problem = HeadProblem.of(
        data.features, data.labels, weights, start=data.head, pull=1e-3, adjustment=shift, loss=arm.loss
    )
    constant = problem.inputs[0, -1]
    change = np.hstack([found.weight, found.bias[:, None] / constant]) - problem.origin
    _, steep = problem.objective(np.zeros_like(change))
    _, flat = problem.objective(change)
    assert np.linalg.norm(flat) < 1e-3 * np.linalg.norm(steep)
    usual = fit_head(data.features, data.labels, weights, start=data.head, pull=1e-3, adjustment=shift)
    assert not np.allclose(found.weight, usual.weight)
