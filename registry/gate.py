"""Whether a candidate may become champion: a pure function of scores and settings, with a reason for everything.

Every rule gives its number, its threshold and the margin between them, passed or not, so that an account of a promotion can
be read years later without the data. No rule stops the others from being looked at.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from registry.bounds import Person, allowed_error, lower_accuracy
from registry.errors import VerdictError
from registry.settings import GateSettings

_FORMAT = 2
_READ = frozenset({1, 2})
"""Format 1 knew no frozen holdouts."""
_ROUNDING = 1e-9
"""Two numbers closer than this are the same: 0.8 − 0.02 is not 0.78 in binary."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """How a model did on a holdout."""

    accuracy: float
    """Share of windows whose scene was recognised."""
    macro_f1: float
    """F1 averaged over the scenes, each counting the same."""
    recall: Mapping[str, float]
    """Scene → share of its windows that were recognised, for every scene the model knows; NaN where it has no window."""
    windows: int
    """Windows in the holdout."""
    subjects: int
    """People in the holdout."""
    holdout: str
    """Digest of the holdout: the same for two scores if and only if the windows and their labels are."""
    scene_windows: Mapping[str, int] = field(default_factory=dict)
    """Scene → its windows in the holdout; empty if not counted, then only a NaN recall says that a scene is absent."""
    people: Sequence[Person] = ()
    """What became of each person's windows, in any order; empty if not counted, then there is no bound."""
    latency_s: float | None = None
    """Seconds that one window takes, if it was measured; asked of a candidate only."""
    size_mb: float | None = None
    """10⁶ bytes of the model's files, likewise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """Which frozen holdout is asked (:mod:`registry.holdouts`), how often it has been, and what has become of it since."""

    holdout: str
    """Its name."""
    number: int
    """This is the so-manieth question that it decides, from 1."""
    windows: int
    """Windows that were frozen."""
    relabelled: int = 0
    """Of those, labelled otherwise since."""
    missing: int = 0
    """Of those, no longer there, or no longer labelled."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RuleResult:
    """What one rule found."""

    name: str
    """Stable name, for tags and counting."""
    passed: bool
    value: float | None
    """The number looked at; None if it could not be computed, or if there was nothing to look at."""
    threshold: float | None
    """What the number must at least be (of a latency, size or change: at most); None if there was nothing to compare with."""
    margin: float | None
    """How far on the right side of the threshold the number is: negative by how much the rule was missed."""
    text: str
    """One sentence for a person."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """The gate's answer, with everything it looked at."""

    passed: bool
    rules: tuple[RuleResult, ...]
    recovery_ratio: float | None
    """Candidate's accuracy on the target holdout ÷ original's on the source holdout; None if not computable."""
    rescore: tuple[str, ...] = ()
    """Whose score (``champion``, ``original``) is of another holdout: score it on the candidate's and ask again. Such a verdict
    has not passed, and is no judgement on the candidate."""
    holdout: str = ""
    """Digest of the holdout that decided."""
    recovery_lower_bound: float | None = None
    """Lower 95 % bound of the ratio, adjusted for how often the holdout was asked; None if not computable."""
    frozen: str = ""
    """Name of the frozen holdout that those windows are of; empty if it was none."""
    asked: int = 1
    """It was the so-manieth question that this holdout decided."""

    @property
    def reasons(self) -> tuple[str, ...]:
        """Sentences of the rules that refused; of all rules if none did."""
        return tuple(rule.text for rule in self.rules if self.passed or not rule.passed)

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the rules that refused."""
        return tuple(rule.name for rule in self.rules if not rule.passed)

    def to_json(self) -> str:
        """This verdict as JSON text: sorted keys, one line, no NaN."""
        return json.dumps({"format": _FORMAT, **asdict(self)}, sort_keys=True, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Verdict:
        """The verdict that :meth:`to_json` wrote.

        Raises:
            VerdictError: it is none, or of a later format.
        """
        try:
            data: dict[str, Any] = json.loads(text)
            if (found := data.pop("format")) not in _READ:
                msg = f"verdict of format {found!r}; this version reads formats {', '.join(map(str, sorted(_READ)))}"
                raise VerdictError(msg)
            rules = tuple(RuleResult(**rule) for rule in data.pop("rules"))
            return cls(rules=rules, rescore=tuple(data.pop("rescore")), **data)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            msg = f"not a verdict: {text[:80]!r} ({error!r})"
            raise VerdictError(msg) from error


def verdict(
    candidate: Score,
    champion: Score | None,
    original: Score,
    source_accuracy: float,
    policy: GateSettings,
    question: Question | None = None,
) -> Verdict:
    """Judge a candidate.

    Args:
        candidate: its score on the target holdout.
        champion: the present champion's score on the same holdout; None before the first promotion, or if the champion has
            been deleted: then there is nothing to be worse than.
        original: the original model's score, as it is, on the same holdout.
        source_accuracy: the original model's accuracy on the source holdout, what is to be recovered.
        policy: the thresholds.
        question: of which frozen holdout; None for one that is asked once and not kept.

    Returns:
        A verdict that passed if and only if every rule did. If the champion's or the original model's score is of another
        holdout, it has not passed, and ``rescore`` says whose score is needed.
    """
    references = {"champion": champion, "original": original}
    rescore = tuple(
        name for name, score in references.items() if score is not None and score.holdout != candidate.holdout
    )
    number = question.number if question else 1
    divisible = source_accuracy > _ROUNDING
    ratio = candidate.accuracy / source_accuracy if divisible else math.nan
    bound = lower_accuracy(candidate.people, allowed_error(number)) / source_accuracy if divisible else math.nan
    rules: list[RuleResult] = [
        _numbers(candidate, source_accuracy),
        *_size(candidate, policy),
        *_unchanged(question, policy),
        _scenes(candidate, original, policy),
        *_recall_floors(candidate, policy),
        *_recovery(candidate, source_accuracy, ratio, policy),
        *_recovery_bound(candidate, bound, number, policy),
    ]
    for name, score in references.items():
        if name in rescore:
            rules.append(_other_holdout(name, candidate, score))
        else:
            rules.extend(_not_worse(name, candidate, score, policy))
    rules.extend(_cost(candidate, policy))
    return Verdict(
        passed=all(rule.passed for rule in rules),
        rules=tuple(rules),
        recovery_ratio=_finite(ratio),
        rescore=rescore,
        holdout=candidate.holdout,
        recovery_lower_bound=_finite(bound),
        frozen=question.holdout if question else "",
        asked=number,
    )


def _numbers(candidate: Score, source_accuracy: float) -> RuleResult:
    shares = {
        "the candidate's accuracy": candidate.accuracy,
        "the candidate's macro-F1": candidate.macro_f1,
        "the original model's accuracy on the source holdout": source_accuracy,
    }
    wrong = [f"{name} is {value}" for name, value in shares.items() if not 0.0 <= value <= 1.0]
    if not wrong and source_accuracy <= _ROUNDING:
        wrong = ["the original model's accuracy on the source holdout is 0, so there is nothing to recover"]
    text = f"Not usable: {'; '.join(wrong)}." if wrong else "All scores are shares between 0 and 1."
    return RuleResult(name="numbers", passed=not wrong, value=None, threshold=None, margin=None, text=text)


def _size(candidate: Score, policy: GateSettings) -> Iterator[RuleResult]:
    for name, what, value, least in (
        ("holdout_windows", "windows", candidate.windows, policy.min_holdout_windows),
        ("holdout_subjects", "people", candidate.subjects, policy.min_holdout_subjects),
    ):
        enough = value >= least
        lack = "" if enough else f", {least - value} too few"
        text = f"The holdout has {value} {what}{lack}; at least {least} decide."
        yield RuleResult(name=name, passed=enough, value=value, threshold=least, margin=value - least, text=text)


def _scenes(candidate: Score, original: Score, policy: GateSettings) -> RuleResult:
    known = sorted({*candidate.recall, *original.recall, *candidate.scene_windows})
    absent = [scene for scene in known if not math.isfinite(candidate.recall.get(scene, math.nan))]
    few = [
        f"{scene} ({candidate.scene_windows[scene]})"
        for scene in known
        if scene not in absent and candidate.scene_windows.get(scene, math.inf) < policy.min_scene_windows
    ]
    present = len(known) - len(absent) - len(few)
    if not known:
        text = "The score names no scene, so nobody knows which were in the holdout."
    elif absent or few:
        lacking = [f"no window of {', '.join(absent)}"] if absent else []
        lacking += [f"fewer than {policy.min_scene_windows} windows of {', '.join(few)}"] if few else []
        text = f"The holdout has {' and '.join(lacking)}: {present} of {len(known)} scenes are present."
    else:
        text = f"All {len(known)} scenes are in the holdout."
    return RuleResult(
        name="scenes",
        passed=bool(known) and present == len(known),
        value=present,
        threshold=max(len(known), 1),
        margin=present - max(len(known), 1),
        text=text,
    )


def _unchanged(question: Question | None, policy: GateSettings) -> Iterator[RuleResult]:
    if question is None:
        return
    share = (question.relabelled + question.missing) / question.windows if question.windows else math.nan
    what = (
        f"The share of holdout {question.holdout}'s {question.windows} windows that changed since it was frozen "
        f"({question.relabelled} labelled otherwise, {question.missing} gone)"
    )
    yield _at_most(
        "holdout_changed", what, share, policy.max_holdout_changed, f"the {policy.max_holdout_changed:g} allowed"
    )


def _recall_floors(candidate: Score, policy: GateSettings) -> Iterator[RuleResult]:
    """A rule for each scene that has a floor. Of an absent scene nobody knows: it is refused here too, unless no floor is set."""
    floors = {**dict.fromkeys(candidate.recall, policy.min_scene_recall), **policy.scene_recall}
    for scene, floor in sorted(floors.items()):
        if floor > 0.0:
            yield _at_least(
                f"scene_recall/{scene}", f"The recall of {scene}", candidate.recall.get(scene, math.nan), floor,
                f"its floor {floor:g}",
            )  # fmt: skip


def _recovery(candidate: Score, source_accuracy: float, ratio: float, policy: GateSettings) -> Iterator[RuleResult]:
    what = f"The recovery ratio (accuracy {_n(candidate.accuracy)} on target ÷ {_n(source_accuracy)} on source)"
    yield _at_least(
        "recovery_ratio", what, ratio, policy.recovery_threshold, f"the threshold {policy.recovery_threshold:g}"
    )


def _recovery_bound(candidate: Score, bound: float, number: int, policy: GateSettings) -> Iterator[RuleResult]:
    if policy.recovery_lower_threshold <= 0.0 and not math.isfinite(bound):
        return  # none is asked for, and there is none to tell
    asked = "" if number == 1 else f" (at the {number}{_ordinal(number)} question of this holdout)"
    what = f"The recovery ratio's lower 95 % bound over {len(candidate.people)} people{asked}"
    least = policy.recovery_lower_threshold
    yield _at_least("recovery_lower_bound", what, bound, least, f"the threshold {least:g}")


def _cost(candidate: Score, policy: GateSettings) -> Iterator[RuleResult]:
    most_s = policy.max_latency.total_seconds()
    for name, what, value, most, unit in (
        ("latency", "The time for one window, in seconds,", candidate.latency_s, most_s, "s"),
        ("size", "The size of the model's files, in MB,", candidate.size_mb, policy.max_size_mb, "MB"),
    ):
        if most > 0.0:
            yield _at_most(name, what, math.nan if value is None else value, most, f"the {most:g} {unit} allowed")


def _other_holdout(name: str, candidate: Score, score: Score | None) -> RuleResult:
    other = score.holdout if score is not None else "none"
    text = (
        f"The {name} was scored on holdout {other or 'unnamed'}, the candidate on {candidate.holdout or 'unnamed'}: "
        f"score the {name} on the candidate's holdout and judge again."
    )
    return RuleResult(name=f"{name}_holdout", passed=False, value=None, threshold=None, margin=None, text=text)


def _not_worse(name: str, candidate: Score, score: Score | None, policy: GateSettings) -> Iterator[RuleResult]:
    if score is None:
        text = f"There is no {name} to be worse than."
        yield RuleResult(name=f"{name}_accuracy", passed=True, value=None, threshold=None, margin=None, text=text)
        return
    owner = "the champion's" if name == "champion" else "the original model's"
    as_it_is = " as it is" if name == "original" else ""
    for metric, what, tolerance in (
        ("accuracy", "accuracy", policy.accuracy_tolerance),
        ("macro_f1", "macro-F1", policy.macro_f1_tolerance),
    ):
        reference = getattr(score, metric)
        bound = f"{owner} {_n(reference)}{as_it_is}" + (f" less the tolerance of {tolerance:g}" if tolerance else "")
        value = getattr(candidate, metric)
        yield _at_least(f"{name}_{metric}", f"The candidate's {what}", value, reference - tolerance, bound)


def _at_least(name: str, what: str, value: float, threshold: float, bound: str) -> RuleResult:
    """The rule ``value >= threshold``; ``bound`` says in words what the threshold is."""
    return _compared(name, what, value, threshold, bound, margin=value - threshold, sides=("below", "above"))


def _at_most(name: str, what: str, value: float, threshold: float, bound: str) -> RuleResult:
    """The rule ``value <= threshold``, likewise."""
    return _compared(name, what, value, threshold, bound, margin=threshold - value, sides=("above", "below"))


def _compared(
    name: str, what: str, value: float, threshold: float, bound: str, *, margin: float, sides: tuple[str, str]
) -> RuleResult:
    """``sides``: where a value is that misses the threshold, and one that does not."""
    if not math.isfinite(margin):
        text = f"{what} could not be compared with {bound}: {'it is' if math.isnan(value) else 'one is'} not a number."
        return RuleResult(
            name=name, passed=False, value=_finite(value), threshold=_finite(threshold), margin=None, text=text
        )
    passed = margin >= -_ROUNDING
    if abs(margin) <= _ROUNDING:
        text = f"{what} is {_n(value)}, just {bound}."
    else:
        # A miss by less than the digits shown would read "0.900 is 0.000 below 0.900": show what decides.
        digits = 3 if abs(margin) >= 0.001 else 6
        text = f"{what} is {_n(value, digits)}, {_n(abs(margin), digits)} {sides[passed]} {bound}."
    return RuleResult(
        name=name, passed=passed, value=float(value), threshold=float(threshold), margin=float(margin), text=text
    )


def _ordinal(number: int) -> str:
    return "th" if number % 100 in {11, 12, 13} else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")


def _n(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}f}"


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
