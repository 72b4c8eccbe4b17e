"""Belief in labels: whom to trust, what is labelled together, and how people mislabel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import softmax
from sklearn.metrics import roc_auc_score

from training.belief import calibrated, label_belief, look_counts, scenes_shown, second_opinion, trust_shares, unmixed


def test_a_sessions_windows_are_believed_together() -> None:
    """One window that looks like another scene is believed if the rest of its session, labelled alike, speaks for it."""
    labels, scenes = np.repeat([0, 1, 2, 3], 20), 4
    seen = np.full((80, scenes), 0.1)
    seen[np.arange(80), labels] = 0.7
    seen[0] = [0.01, 0.97, 0.01, 0.01]
    train = np.ones(80, bool)
    alone, _ = label_belief(seen, labels, np.arange(80), train=train, novelty=0.1)
    together, _ = label_belief(seen, labels, labels, train=train, novelty=0.1)
    assert alone[0] < 0.5 < together[0]
    assert alone[1:].min() > 0.9
    assert together[0] < together[1]


def test_the_share_of_wrong_labels_is_found_scene_by_scene() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 900)
    labels = np.where((truth == 0) & (rng.random(900) < 0.3), 1, truth)  # a third of scene 0 is labelled 1
    seen = np.full((900, 3), 0.02)
    seen[np.arange(900), truth] = (
        0.96  # a judge who claims no more than 0.8 would himself be wrong as often as these labels
    )
    belief, wrong = label_belief(seen, labels, np.arange(900), train=np.ones(900, bool), novelty=0.1)
    assert roc_auc_score(labels == truth, belief) == 1
    expected = (labels != truth)[labels == 1].mean()
    assert wrong[1] == pytest.approx(expected, abs=0.05)
    assert wrong[[0, 2]].max() < 0.05


@given(
    seen=arrays(np.float64, (12, 3), elements=st.floats(0.0, 1.0)),
    labels=arrays(np.int64, 12, elements=st.integers(0, 2)),
    runs=arrays(np.int64, 12, elements=st.integers(0, 4)),
    novelty=st.floats(0, 1),
)
def test_belief_is_a_probability_whatever_the_judges_say(
    seen: np.ndarray, labels: np.ndarray, runs: np.ndarray, novelty: float
) -> None:
    belief, wrong = label_belief(seen, labels, runs, train=np.arange(12) < 9, novelty=novelty)
    assert ((belief >= 0) & (belief <= 1)).all()
    assert ((wrong > 0) & (wrong < 1)).all()


def test_the_judge_that_explains_the_labels_is_trusted() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 300)
    knows, guesses, errs = np.full((300, 3), 0.1), np.full((300, 3), 1 / 3), np.full((300, 3), 0.05)
    knows[np.arange(300), labels] = 0.8
    errs[np.arange(300), (labels + 1) % 3] = 0.9
    shares = trust_shares(np.stack([errs, knows, guesses]), labels, train=np.ones(300, bool))
    assert shares.sum() == pytest.approx(1)
    assert shares[1] > 0.8
    assert shares[0] < 0.05


def test_most_of_what_is_called_by_a_rare_scenes_name_is_something_else() -> None:
    """One label in five is wrong; of a scene with a twentieth of the windows that is most of its labels, and the belief knows."""
    rng = np.random.default_rng(0)
    truth = rng.choice(3, 1000, p=[0.8, 0.16, 0.04])
    labels = np.where(rng.random(1000) < 0.2, (truth + rng.integers(1, 3, 1000)) % 3, truth)
    looks_like = np.where(rng.random(1000) < 0.1, (truth + rng.integers(1, 3, 1000)) % 3, truth)
    seen = np.full((1000, 3), 0.05)
    seen[np.arange(1000), looks_like] = 0.9
    belief, wrong = label_belief(seen, labels, np.arange(1000), train=np.ones(1000, bool), novelty=0.1)
    for scene in range(3):
        rows = labels == scene
        assert belief[rows].mean() == pytest.approx((truth == labels)[rows].mean(), abs=0.1)
        assert wrong[scene] == pytest.approx((truth != labels)[rows].mean(), abs=0.1)


def test_labels_of_which_most_are_wrong_say_nothing_against_judges_who_see_the_others_clearly() -> None:
    """One label in five is wrong at random, so that of a rare scene's labels three in four are; its right ones are plainly seen."""
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], [260, 90, 12])
    labels = np.where(rng.random(len(truth)) < 0.2, (truth + rng.integers(1, 3, len(truth))) % 3, truth)
    seen = np.full((len(truth), 3), 0.03)
    seen[np.arange(len(truth)), truth] = 0.94
    seen[truth == 2] = [0.1, 0.1, 0.8]
    wrong, rare = labels != truth, labels == 2
    assert wrong[rare].mean() > 0.7
    assert seen[rare, 2].mean() < 0.3, "by their mean, nobody would know this scene"
    belief, _ = label_belief(seen, labels, np.arange(len(truth)), train=np.ones(len(truth), bool), novelty=0.1)
    assert belief[rare & wrong].max() < 0.1
    assert belief[rare & ~wrong].min() > 0.5


def looked_at(truth: np.ndarray, looks_like: np.ndarray, unknown: Sequence[int]) -> np.ndarray:
    """(n, scenes) of judges who are sure, and see hardly anything of the unknown scenes anywhere."""
    seen = np.full((len(truth), truth.max() + 1), 0.02)
    seen[np.arange(len(truth)), looks_like] = 0.9
    seen[:, list(unknown)] = 0.08
    return seen


@pytest.mark.parametrize("run", [1, 10])
@pytest.mark.parametrize("unknown", [(3,), (2, 3)])
def test_a_scene_that_the_judges_do_not_know_is_not_called_all_wrong(run: int, unknown: Sequence[int]) -> None:
    """On new phones it looks to them like another. No other label is wrong, so its own are not all."""
    truth = np.repeat([0, 1, 2, 3], [400, 200, 60, 60])
    seen = looked_at(truth, np.where(np.isin(truth, unknown), 0, truth), unknown)
    belief, _ = label_belief(seen, truth, np.arange(720) // run, train=np.ones(720, bool), novelty=0.1)
    for scene in range(4):
        assert belief[truth == scene].mean() > (0.7 if scene in unknown else 0.95)


@pytest.mark.parametrize("people", [3, 6, 12])
def test_a_scene_that_the_judges_know_of_a_few_people_is_not_called_wrong_of_the_others(people: int) -> None:
    """No other label is wrong: so what they see clearly in a few windows does not speak against the rest."""
    truth = np.repeat([0, 1, 2, 3], [400, 200, 60, 60])
    seen = looked_at(truth, np.where(truth == 3, 0, truth), (3,))
    plainly = np.flatnonzero(truth == 3)[:people]
    seen[plainly] = [0.03, 0.03, 0.03, 0.9]
    belief, _ = label_belief(seen, truth, np.arange(720), train=np.ones(720, bool), novelty=0.1)
    assert belief[plainly].min() > 0.9
    assert belief[truth == 3].mean() > 0.7


def test_of_a_scene_that_the_judges_do_not_know_what_looks_least_like_it_is_believed_least() -> None:
    """As many of its labels are wrong as mistakes spread evenly make, which the judges see a little less in."""
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], [400, 200, 30])
    labels = np.where(rng.random(630) < 0.1, (truth + rng.integers(1, 3, 630)) % 3, truth)
    seen = looked_at(truth, np.where(truth == 2, 0, truth), (2,))
    seen[truth == 2, 2] = 0.16
    belief, _ = label_belief(seen, labels, np.arange(630), train=np.ones(630, bool), novelty=0.1)
    named = labels == 2
    assert belief[named & (truth == 2)].min() > belief[named & (truth != 2)].max()


def test_a_few_sessions_of_other_scenes_are_enough_to_measure_by() -> None:
    """One long session, and all judges see another scene in it: two looks would speak against it, if they were held against it at all."""
    truth = np.repeat([0, 1, 2], [100, 100, 80])
    sessions = np.concatenate([np.arange(200) // 40, np.full(80, 5)])
    seen = looked_at(truth, np.where(truth == 2, 0, truth), (2,))
    belief, _ = label_belief(seen, truth, sessions, train=np.ones(280, bool), novelty=0.1)
    assert belief[truth == 2].min() > 0.6


@pytest.mark.parametrize("known", [0.08, 0.21, 0.25])
def test_labels_of_one_scene_only_are_no_measure_of_how_often_people_err(known: float) -> None:
    """With nothing to compare with, what all judges see counts."""
    seen = np.tile([known, 0.95 * (1 - known), 0.05 * (1 - known)], (100, 1))
    belief, _ = label_belief(seen, np.zeros(100, np.int64), np.arange(100), train=np.ones(100, bool), novelty=0.1)
    assert belief.max() < 0.5


def test_a_scene_that_is_mislabelled_throughout_cannot_be_told_from_one_that_judges_do_not_know() -> None:
    """The price: where all other labels are right, it is believed."""
    truth = np.repeat([0, 1, 0], [400, 200, 30])
    labels = np.repeat([0, 1, 2], [400, 200, 30])
    seen = looked_at(np.append(truth, 2), np.append(truth, 2), (2,))[:-1]
    belief, _ = label_belief(seen, labels, np.arange(630), train=np.ones(630, bool), novelty=0.1)
    assert belief[labels == 2].mean() > 0.5


def test_with_one_scene_there_is_nothing_else_that_a_label_could_mean() -> None:
    belief, _ = label_belief(np.ones((5, 1)), np.zeros(5, np.int64), np.arange(5), train=np.ones(5, bool), novelty=0.1)
    assert belief.min() > 0.9


def judged(modesty: float, *, spread: float = 4.0, systematic: bool = False) -> tuple[np.ndarray, ...]:
    """One label in five is wrong; the judge says true probabilities to the power of 1 / modesty: (seen, labels, wrong)."""
    rng = np.random.default_rng(1)
    true = softmax(rng.normal(0, spread, (2000, 4)), axis=1)
    truth = (true.cumsum(1) > rng.random((2000, 1))).argmax(1)
    wrong = rng.random(2000) < 0.2
    labels = np.where(wrong, (truth + (1 if systematic else rng.integers(1, 4, 2000))) % 4, truth)
    return softmax(np.log(true) / modesty, axis=1), labels, wrong


@pytest.mark.parametrize("modesty", [0.5, 1.0, 2.0])
def test_judges_are_made_as_sure_as_they_are_right(modesty: float) -> None:
    seen, labels, _ = judged(modesty)
    assert calibrated(seen, labels, np.arange(2000), train=np.ones(2000, bool), novelty=0.1)[1] == 1 / modesty


def test_labels_that_always_err_the_same_way_are_no_fault_of_the_judges() -> None:
    """One label in five names the next scene: whoever took that for the judges' error would make them doubt themselves."""
    seen, labels, _ = judged(1.0, systematic=True)
    assert calibrated(seen, labels, np.arange(2000), train=np.ones(2000, bool), novelty=0.1)[1] <= 1


def test_wrong_labels_are_not_believed_because_judges_who_agree_are_modest() -> None:
    seen, labels, wrong = judged(4.0, spread=8.0)
    everything, alone = np.ones(2000, bool), np.arange(2000)
    modest, _ = label_belief(seen, labels, alone, train=everything, novelty=0.1)
    found, _ = calibrated(seen, labels, alone, train=everything, novelty=0.1)
    sure, _ = label_belief(found, labels, alone, train=everything, novelty=0.1)
    assert modest[wrong].mean() > 0.3
    assert sure[wrong].mean() < 0.2
    assert sure[~wrong].mean() > 0.95


@given(
    seen=arrays(np.float64, (12, 3), elements=st.floats(0.0, 1.0)),
    labels=arrays(np.int64, 12, elements=st.integers(0, 2)),
    learned=st.integers(0, 12),
)
def test_calibrated_judges_still_say_probabilities_and_name_the_same_scene(
    seen: np.ndarray, labels: np.ndarray, learned: int
) -> None:
    rows = np.arange(12)
    found, temperature = calibrated(seen, labels, rows // 3, train=rows < learned, novelty=0.1)
    np.testing.assert_allclose(found.sum(1), 1)
    assert temperature > 0
    assert (found[rows, seen.argmax(1)] >= found.max(1) - 1e-9).all()


@pytest.mark.parametrize("seed", range(5))
def test_few_labels_or_the_same_again_and_again_do_not_make_judges_sure(seed: int) -> None:
    """Judges who are as sure as they are right stay so: on forty labels, and on four hundred of twenty runs whose windows are alike."""
    rng = np.random.default_rng(seed)
    for times in (2, 20):
        true = np.repeat(softmax(rng.normal(0, 4, (20, 4)), axis=1), times, axis=0)
        labels = np.repeat((true[::times].cumsum(1) > rng.random((20, 1))).argmax(1), times)
        runs = np.repeat(np.arange(20), times)
        temperature = calibrated(true, labels, runs, train=np.ones(len(runs), bool), novelty=0.1)[1]
        assert 0.5 <= temperature <= 2


def test_a_long_session_is_not_condemned_by_a_mild_look_against_it() -> None:
    """Two to one against a label in every window of it: however many say so, they look at the same ride with the same eyes."""
    labels = np.repeat([0, 1, 2, 3], 500)
    seen = np.full((2000, 4), 0.02)
    seen[np.arange(2000), labels] = 0.94
    seen[:500] = [0.3, 0.64, 0.03, 0.03]
    beliefs = [
        label_belief(seen[::step], labels[::step], labels[::step], train=np.ones(2000 // step, bool), novelty=0.1)[0][0]
        for step in (100, 10, 1)
    ]
    assert beliefs[0] > 0.3
    assert min(beliefs[1:]) > 0.05
    assert beliefs[2] == pytest.approx(beliefs[1], abs=0.05), "fifty or five hundred"


@pytest.mark.parametrize("sharpness", [0.4, 1.0, 3.0])
@pytest.mark.parametrize("verified", [600, 1200])
def test_labels_that_are_known_to_be_right_do_not_make_others_look_right(sharpness: float, verified: int) -> None:
    """They say how verifiers label; how the others do is seen in theirs."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 600 + verified)
    wrong = (np.arange(len(truth)) < 600) & (rng.random(len(truth)) < 0.3)
    labels = np.where(wrong, (truth + rng.integers(1, 3, len(truth))) % 3, truth)
    seen = softmax(sharpness * (2 * np.eye(3)[truth] + rng.normal(0, 1, (len(truth), 3))), axis=1)
    known, first = np.arange(len(truth)) >= 600, np.arange(len(truth)) < 600

    def believed(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return label_belief(
            seen[rows], labels[rows], np.arange(rows.sum()), train=np.ones(rows.sum(), bool), novelty=0.1,
            verified=known[rows],
        )  # fmt: skip

    alone, share_alone = believed(first)
    beside, share = believed(np.ones(len(truth), bool))
    assert (beside[known] == 1).all()
    assert beside[:600][wrong[:600]].mean() < alone[wrong[:600]].mean() + 0.05
    np.testing.assert_allclose(share, share_alone, atol=0.06)


def test_labels_that_are_known_to_be_right_tell_that_judges_do_not_know_a_scene() -> None:
    """What is called by its name and looks as its verified windows do is not called wrong, though nobody else's is believed by its look."""
    truth = np.repeat([0, 1, 2], [100, 100, 60])
    seen = looked_at(truth, truth, (2,))
    verified = (truth == 2) & (np.arange(260) % 3 == 0)
    belief, _ = label_belief(seen, truth, np.arange(260), train=np.ones(260, bool), novelty=0.1, verified=verified)
    assert belief[(truth == 2) & ~verified].mean() > 0.5


def looks(*, network: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """400 windows of four scenes, a fifth labelled wrongly: truth, labels, what judges who see little make of them, and a network's logits.

    The network is surely wrong about so many of the windows, always in the same way, and right about the others.
    """
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 4, 400)
    labels = np.where(rng.random(400) < 0.2, (truth + rng.integers(1, 4, 400)) % 4, truth)
    mixed = softmax(1.5 * np.eye(4)[truth] + rng.normal(0, 1, (400, 4)), axis=1)
    named = np.where(rng.random(400) < network, (truth + 1) % 4, truth)
    return truth, labels, mixed, 6 * np.eye(4)[named] + rng.normal(0, 1, (400, 4))


def test_a_network_that_sees_more_tells_wrong_labels_that_others_believe() -> None:
    truth, labels, mixed, logits = looks(network=0.0)
    runs, every = np.arange(400), np.arange(400)
    before, _ = second_opinion(mixed, np.log(mixed), every, labels, runs, novelty=0.1)
    heard, trust = second_opinion(mixed, logits, every, labels, runs, novelty=0.1)
    assert trust > 0.9
    assert roc_auc_score(labels == truth, heard) > max(0.98, roc_auc_score(labels == truth, before) + 0.02)


@pytest.mark.parametrize(("wrong", "most"), [(0.2, 0.6), (0.3, 0.4), (0.4, 0.3), (0.6, 0.1), (0.9, 0.1)])
def test_a_network_that_is_sure_and_wrong_is_not_believed_for_being_sure(wrong: float, most: float) -> None:
    truth, labels, mixed, logits = looks(network=wrong)
    before, _ = second_opinion(mixed, np.log(mixed), np.arange(400), labels, np.arange(400), novelty=0.1)
    heard, trust = second_opinion(mixed, logits, np.arange(400), labels, np.arange(400), novelty=0.1)
    assert trust < most
    right = labels == truth
    assert roc_auc_score(right, heard) > roc_auc_score(right, before) - 0.01
    # Nor does it look much better to those who believe as it does than it is: no farther off than it looked worse before.
    agrees = logits.argmax(1) == labels
    true, first, second = (
        agrees[right].mean(), np.average(agrees, weights=before), np.average(agrees, weights=heard)
    )  # fmt: skip
    assert abs(second - true) < abs(first - true) + 0.02


def test_a_second_opinion_is_of_what_was_looked_at_whatever_the_order() -> None:
    truth, labels, mixed, logits = looks(network=0.0)
    right = labels == truth
    rows = np.random.default_rng(1).permutation(400)[:300]
    others = np.setdiff1d(np.arange(400), rows)
    heard, trust = second_opinion(mixed, logits[rows], rows, labels, np.arange(400), novelty=0.1)
    again, same = second_opinion(mixed, logits[rows[::-1]], rows[::-1], labels, np.arange(400), novelty=0.1)
    np.testing.assert_array_equal(heard, again)
    assert trust == same
    verified = np.arange(400) % 3 == 0
    known, _ = second_opinion(mixed, -logits[rows], rows, labels, np.arange(400), novelty=0.1, verified=verified)
    assert (known[verified] == 1).all()
    assert roc_auc_score(right[rows], heard[rows]) > roc_auc_score(right[others], heard[others]) + 0.02


def test_a_judge_who_is_never_sure_of_a_scene_but_says_it_less_of_all_others_is_taken_to_be_clear() -> None:
    truth = np.repeat([0, 1, 2], [200, 80, 10])
    says = np.array([[0.8, 0.05, 0.15], [0.15, 0.7, 0.15], [0.45, 0.15, 0.4]])
    shown, every = np.eye(3)[truth], np.ones(len(truth))
    found = unmixed(says[truth], shown, every)
    assert says[2].argmax() == 0
    assert found[truth == 2, 2].min() > 0.6, "of ten windows, some imaginary ones hold back"
    assert found[truth != 2, 2].max() < 0.1
    assert (found.argmax(1) == truth).all()
    half_way = unmixed(
        np.vstack([(says[0] + says[1]) / 2, says[truth]]), np.vstack([[0.5, 0.5, 0], shown]), np.append(0, every)
    )
    assert half_way[0, :2] == pytest.approx([0.5, 0.5], abs=0.05)


def test_a_judge_who_cannot_tell_scenes_apart_says_no_more_for_it_of_the_common_ones() -> None:
    truth = np.repeat([0, 1, 2, 3], [200, 80, 10, 0])
    shown, every = np.eye(4)[truth], np.ones(len(truth))
    assert unmixed(np.full((290, 4), 0.25), shown, every) == pytest.approx(0.25)
    guesses = np.random.default_rng(0).dirichlet([20, 20, 20, 20], 290)
    found = unmixed(guesses, shown, every)
    for scene in range(3):
        assert found[truth == scene].mean(0).max() < 0.4, scene
    weak = shown * 0.3 + 0.175
    before, after = (trust_shares(np.stack([each, weak]), truth, train=every > 0)[0] for each in (guesses, found))
    assert after < before + 0.1


@given(
    seen=arrays(np.float64, (12, 3), elements=st.floats(0.0, 1.0)),
    labels=arrays(np.int64, 12, elements=st.integers(0, 2)),
    belief=arrays(np.float64, 12, elements=st.floats(0.0, 1.0)),
    runs=arrays(np.int64, 12, elements=st.integers(0, 4)),
    taught=st.integers(0, 12),
)
def test_what_is_unmixed_is_a_probability_whatever_the_judge_says(
    seen: np.ndarray, labels: np.ndarray, belief: np.ndarray, runs: np.ndarray, taught: int
) -> None:
    seen = np.maximum(seen, 1e-6)
    times = look_counts(runs, 0.1, train=np.arange(12) < taught)
    shown = scenes_shown(seen, labels, belief, times)
    assert shown.sum(1) == pytest.approx(1)
    assert shown[np.arange(12), labels] == pytest.approx(belief)
    assert ((shown >= 0) & (shown <= 1)).all()
    found = unmixed(seen, shown, times)
    assert (found > 0).all()
    assert found.sum(1) == pytest.approx(1)
