"""The gate: each rule refuses for its own reason and says by how much, and a better candidate is never refused for it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.bounds import Person
from registry.errors import RegistrySettingsError, VerdictError
from registry.gate import Question, RuleResult, Score, Verdict, verdict
from registry.settings import GateSettings

SCENES = ("Still", "Walk", "Bus")
POLICY = GateSettings()


def people(*accuracies: float) -> tuple[Person, ...]:
    """People of 100 windows each; an accuracy that is none makes a person who says nothing."""
    return tuple(Person(right=round(100 * share), windows=100) for share in accuracies if 0 <= share <= 1)


def score(accuracy: float = 0.80, macro_f1: float = 0.75, **changes: object) -> Score:
    whole = Score(
        accuracy=accuracy,
        macro_f1=macro_f1,
        recall=dict.fromkeys(SCENES, accuracy),
        windows=400,
        subjects=4,
        holdout="h1",
        scene_windows={"Still": 200, "Walk": 150, "Bus": 50},
        people=people(*[accuracy] * 4),
        latency_s=0.02,
        size_mb=85.0,
    )
    return replace(whole, **changes)  # type: ignore[arg-type]  # a test's keyword arguments


def judge(candidate: Score, champion: Score | None = None, original: Score | None = None, **changes: float) -> Verdict:
    return verdict(candidate, champion, original or score(0.5, 0.4), 0.85, replace(POLICY, **changes))  # type: ignore[arg-type]


def result(found: Verdict, name: str) -> RuleResult:
    return next(rule for rule in found.rules if rule.name == name)


def rule(found: Verdict, name: str) -> str:
    return result(found, name).text


def test_first_promotion_has_nothing_to_be_worse_than() -> None:
    found = judge(score())
    assert found.passed
    assert found.recovery_ratio == pytest.approx(0.80 / 0.85)
    assert rule(found, "champion_accuracy") == "There is no champion to be worse than."
    assert found.reasons == tuple(rule.text for rule in found.rules)


def test_recovery_below_the_threshold_says_by_how_much() -> None:
    found = judge(score(0.70))
    assert not found.passed
    assert found.failed == ("recovery_ratio",)
    missed = result(found, "recovery_ratio")
    assert missed.margin == pytest.approx(0.70 / 0.85 - 0.90)
    (reason,) = found.reasons
    assert reason.endswith("on target ÷ 0.850 on source) is 0.824, 0.076 below the threshold 0.9.")


def test_exactly_the_threshold_passes() -> None:
    found = verdict(score(0.90), None, score(0.5), 1.0, POLICY)
    assert found.passed
    assert rule(found, "recovery_ratio").endswith("is 0.900, just the threshold 0.9.")


def test_a_miss_smaller_than_the_digits_shown_is_readable() -> None:
    found = verdict(score(0.89999), None, score(0.5), 1.0, POLICY)
    assert found.reasons[0].endswith("is 0.899990, 0.000010 below the threshold 0.9.")


@pytest.mark.parametrize(
    ("champion", "failed"),
    [
        (score(0.80, 0.75), ()),
        (score(0.79, 0.75), ()),
        (score(0.79, 0.751), ("champion_macro_f1",)),  # not worse means not worse
        (score(0.81, 0.70), ("champion_accuracy",)),
        (score(0.79, 0.78), ("champion_macro_f1",)),
        (score(0.90, 0.90), ("champion_accuracy", "champion_macro_f1")),
    ],
)
def test_not_worse_than_the_champion(champion: Score, failed: tuple[str, ...]) -> None:
    assert judge(score(), champion).failed == failed


def test_macro_f1_has_the_tolerance_that_is_set() -> None:
    policy = GateSettings(macro_f1_tolerance=0.02)
    assert verdict(score(), score(0.79, 0.77), score(0.5, 0.4), 0.85, policy).passed
    assert not verdict(score(), score(0.79, 0.78), score(0.5, 0.4), 0.85, policy).passed


def test_not_worse_than_the_original_as_it_is() -> None:
    found = judge(score(), original=score(0.82, 0.60))
    assert found.failed == ("original_accuracy",)
    assert "is 0.800, 0.020 below the original model's 0.820 as it is." in found.reasons[0]


def test_a_changed_holdout_asks_for_a_new_score_and_compares_nothing() -> None:
    found = judge(score(), score(0.1, 0.1, holdout="h0"))
    assert not found.passed
    assert found.rescore == ("champion",)
    assert found.failed == ("champion_holdout",)
    assert "scored on holdout h0, the candidate on h1" in found.reasons[0]
    assert not [rule for rule in found.rules if rule.name == "champion_accuracy"]
    assert judge(score(), score(0.7), score(0.5, holdout="h0")).rescore == ("original",)


@pytest.mark.parametrize(
    ("changes", "failed"),
    [
        ({"windows": 99}, "holdout_windows"),
        ({"subjects": 1}, "holdout_subjects"),
        ({"recall": {"Still": 0.8, "Walk": 0.8, "Bus": math.nan}}, "scenes"),
        ({"recall": {"Still": 0.8, "Walk": 0.8}}, "scenes"),
        ({"scene_windows": {"Still": 200, "Walk": 200, "Bus": 0}}, "scenes"),
        ({"recall": {}, "scene_windows": {}}, "scenes"),
    ],
)
def test_a_holdout_that_cannot_decide(changes: dict[str, object], failed: str) -> None:
    assert judge(score(**changes)).failed == (failed,)  # type: ignore[arg-type]


def test_an_absent_scene_is_named() -> None:
    found = judge(score(recall={"Still": 0.8, "Walk": 0.8, "Bus": math.nan}))
    assert found.reasons == ("The holdout has no window of Bus: 2 of 3 scenes are present.",)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -0.1, 1.1])
def test_numbers_that_are_no_shares_never_pass(bad: float) -> None:
    assert "numbers" in judge(score(bad)).failed
    assert "numbers" in judge(score(macro_f1=bad)).failed
    assert "numbers" in verdict(score(), None, score(0.5), bad, POLICY).failed


def test_nothing_to_recover_is_a_refusal_not_a_division_by_zero() -> None:
    assert not verdict(
        score(), None, score(0.5), 5e-324, POLICY
    ).passed  # the smallest number: the ratio would be infinite
    found = verdict(score(), None, score(0.5), 0.0, POLICY)
    assert not found.passed
    assert found.recovery_ratio is None
    assert "nothing to recover" in found.reasons[0]


def test_a_champion_without_a_number_is_no_reason_to_promote() -> None:
    found = judge(score(), score(math.nan))
    assert found.failed == ("champion_accuracy",)
    assert "could not be compared" in found.reasons[0]


def test_every_scene_has_its_floor() -> None:
    recall = {"Still": 0.9, "Walk": 0.8, "Bus": 0.2}
    found = judge(score(recall=recall), min_scene_recall=0.3)
    assert found.failed == ("scene_recall/Bus",)
    assert found.reasons == ("The recall of Bus is 0.200, 0.100 below its floor 0.3.",)
    floors = [rule.name for rule in found.rules if rule.name.startswith("scene_recall")]
    assert floors == ["scene_recall/Bus", "scene_recall/Still", "scene_recall/Walk"]
    own = GateSettings(min_scene_recall=0.3, scene_recall={"Bus": 0.1, "Walk": 0.85})
    found = verdict(score(recall=recall), None, score(0.5, 0.4), 0.85, own)
    assert found.failed == ("scene_recall/Walk",)
    assert result(found, "scene_recall/Bus").margin == pytest.approx(0.1)


def test_a_floor_for_a_scene_that_nobody_knows_is_not_met() -> None:
    found = verdict(score(), None, score(0.5, 0.4), 0.85, GateSettings(scene_recall={"Buss": 0.1}))
    assert found.failed == ("scene_recall/Buss",)


def test_the_lower_bound_is_over_people() -> None:
    """The same accuracy, of people who are alike and of people who are not."""
    alike, unlike = score(people=people(0.8, 0.8, 0.8, 0.8)), score(people=people(1.0, 1.0, 0.6, 0.6))
    assert judge(alike, recovery_lower_threshold=0.9).passed
    found = judge(unlike, recovery_lower_threshold=0.9)
    assert found.failed == ("recovery_lower_bound",)
    assert result(found, "recovery_lower_bound").value == found.recovery_lower_bound == pytest.approx(0.6 / 0.85)
    assert judge(unlike, recovery_lower_threshold=0.0).passed


@pytest.mark.parametrize("who", [(), people(0.8)])
def test_of_one_person_there_is_no_bound(who: tuple[Person, ...]) -> None:
    found = judge(score(people=who))
    assert found.failed == ("recovery_lower_bound",)
    assert found.recovery_lower_bound is None
    assert judge(score(people=who), recovery_lower_threshold=0.0).passed


def question(number: int = 1, **changes: int) -> Question:
    return Question(holdout="f1", number=number, windows=400, **changes)


def test_the_bound_goes_down_each_time_the_same_holdout_is_asked() -> None:
    candidate = score(people=people(*[0.6 + 0.04 * at for at in range(11)]))
    bounds, texts = [], []
    for number in (1, 2, 3, 11, 100):
        found = verdict(candidate, None, score(0.5, 0.4), 0.85, POLICY, question(number))
        assert (found.asked, found.frozen) == (number, "f1")
        bounds.append(found.recovery_lower_bound or 0.0)
        texts.append(rule(found, "recovery_lower_bound"))
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[0] > bounds[1] > bounds[3]
    assert bounds[-1] >= 0.6 / 0.85 - 1e-9, "the worst person is the worst there is"
    assert "question" not in texts[0]
    assert ["(at the 2nd question" in texts[1], "3rd" in texts[2], "11th" in texts[3]] == [True, True, True]


def test_a_holdout_that_changed_since_it_was_frozen() -> None:
    def ask(**changes: int) -> Verdict:
        return verdict(score(), None, score(0.5, 0.4), 0.85, POLICY, question(**changes))

    assert ask().passed
    assert ask(relabelled=20, missing=20).passed
    found = ask(relabelled=30, missing=20)
    assert found.failed == ("holdout_changed",)
    assert "(30 labelled otherwise, 20 gone) is 0.125, 0.025 above the 0.1 allowed" in found.reasons[0]
    assert result(found, "holdout_changed").margin == pytest.approx(-0.025)
    nothing = Question(holdout="f1", number=1, windows=0)
    assert verdict(score(), None, score(0.5, 0.4), 0.85, POLICY, nothing).failed == ("holdout_changed",)


@pytest.mark.parametrize(
    ("changes", "failed"),
    [
        ({"latency_s": 0.3}, ("latency",)),
        ({"latency_s": None}, ("latency",)),
        ({"latency_s": math.nan}, ("latency",)),
        ({"size_mb": 251.0}, ("size",)),
        ({"size_mb": None, "latency_s": 0.25}, ("size",)),
        ({"latency_s": 0.25, "size_mb": 250.0}, ()),
    ],
)
def test_what_is_too_slow_or_too_large(changes: dict[str, float | None], failed: tuple[str, ...]) -> None:
    found = judge(score(**changes))
    assert found.failed == failed
    none_asked = GateSettings(max_latency=timedelta(0), max_size_mb=0)
    assert verdict(score(**changes), None, score(0.5, 0.4), 0.85, none_asked).passed


def test_a_limit_says_by_how_much() -> None:
    found = judge(score(latency_s=0.3))
    assert found.reasons == ("The time for one window, in seconds, is 0.300, 0.050 above the 0.25 s allowed.",)
    assert result(found, "latency").margin == pytest.approx(-0.05)


shares = st.floats(0.0, 1.0)
any_number = st.one_of(shares, st.floats(allow_nan=True, allow_infinity=True))


PEOPLE = people(0.0, 0.5, 0.9, 1.0)


@st.composite
def scores(draw: st.DrawFn, numbers: st.SearchStrategy[float] = shares) -> Score:
    return Score(
        accuracy=draw(numbers),
        macro_f1=draw(numbers),
        recall={scene: draw(numbers) for scene in draw(st.lists(st.sampled_from(SCENES), unique=True))},
        windows=draw(st.integers(0, 500)),
        subjects=draw(st.integers(0, 5)),
        holdout=draw(st.sampled_from(["h1", "h2"])),
        scene_windows={
            scene: draw(st.integers(0, 9)) for scene in draw(st.lists(st.sampled_from(SCENES), unique=True))
        },
        people=draw(st.lists(st.sampled_from(PEOPLE), max_size=4)),
        latency_s=draw(st.none() | numbers),
        size_mb=draw(st.none() | numbers),
    )


policies = st.builds(
    GateSettings,
    recovery_threshold=shares,
    recovery_lower_threshold=shares,
    accuracy_tolerance=shares,
    macro_f1_tolerance=shares,
    min_scene_recall=shares,
    min_holdout_windows=st.integers(0, 500),
    min_holdout_subjects=st.integers(0, 5),
    min_scene_windows=st.integers(0, 9),
    scene_recall=st.dictionaries(st.sampled_from(SCENES), shares),
    max_latency=st.sampled_from([timedelta(0), timedelta(seconds=0.1)]),
)
questions = st.none() | st.builds(
    Question,
    holdout=st.just("f1"),
    number=st.integers(1, 50),
    windows=st.integers(0, 500),
    relabelled=st.integers(0, 50),
    missing=st.integers(0, 50),
)


@given(scores(any_number), st.none() | scores(any_number), scores(any_number), any_number, policies, questions)
def test_a_verdict_is_complete_and_survives_json(
    candidate: Score,
    champion: Score | None,
    original: Score,
    source: float,
    policy: GateSettings,
    asked: Question | None,
) -> None:
    found = verdict(candidate, champion, original, source, policy, asked)
    assert found.passed == all(rule.passed for rule in found.rules)
    assert found.reasons
    assert all(text.endswith(".") for text in found.reasons)
    assert not (found.passed and found.rescore)
    assert Verdict.from_json(found.to_json()) == found
    assert "NaN" not in found.to_json()


@given(st.data(), scores(), st.none() | scores(), scores(), shares, policies)
def test_a_better_candidate_is_never_refused_for_it(
    data: st.DataObject, candidate: Score, champion: Score | None, original: Score, source: float, policy: GateSettings
) -> None:
    better = replace(
        candidate,
        accuracy=data.draw(st.floats(candidate.accuracy, 1.0)),
        macro_f1=data.draw(st.floats(candidate.macro_f1, 1.0)),
        recall={scene: data.draw(st.floats(recall, 1.0)) for scene, recall in candidate.recall.items()},
        people=[
            replace(person, right=data.draw(st.integers(person.right, person.windows))) for person in candidate.people
        ],
    )
    before, after = (verdict(it, champion, original, source, policy) for it in (candidate, better))
    assert set(after.failed) <= set(before.failed)


@given(scores(), scores(), shares)
def test_a_stricter_threshold_never_turns_a_refusal_into_a_pass(
    candidate: Score, original: Score, source: float
) -> None:
    mild, strict = (
        verdict(candidate, None, original, source, GateSettings(recovery_threshold=threshold))
        for threshold in (0.5, 0.9)
    )
    assert mild.passed or not strict.passed


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1}', "null", '{"format": 1, "rules": [{"name": 1}]}'])
def test_text_that_is_no_verdict(text: str) -> None:
    with pytest.raises(VerdictError, match="not a verdict"):
        Verdict.from_json(text)


def test_a_verdict_of_a_later_format_is_refused() -> None:
    later = {**json.loads(judge(score()).to_json()), "format": 3}
    with pytest.raises(VerdictError, match="format 3"):
        Verdict.from_json(json.dumps(later))


def test_a_verdict_from_before_holdouts_were_frozen_can_be_read() -> None:
    """Entries of the ledger are for ever."""
    old = {**json.loads(judge(score()).to_json()), "format": 1}
    for new in ("recovery_lower_bound", "frozen", "asked"):
        del old[new]
    found = Verdict.from_json(json.dumps(old))
    assert found.passed
    assert (found.recovery_lower_bound, found.frozen, found.asked) == (None, "", 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"recovery_threshold": math.nan},
        {"accuracy_tolerance": -0.1},
        {"min_scene_recall": 1.5},
        {"scene_recall": {"Bus": 1.5}},
        {"max_holdout_changed": math.nan},
        {"max_latency": timedelta(seconds=-1)},
        {"max_size_mb": math.inf},
        {"min_holdout_windows": -1},
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(RegistrySettingsError, match=next(iter(changes))):
        GateSettings(**changes)  # type: ignore[arg-type]
