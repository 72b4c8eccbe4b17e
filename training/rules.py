"""What a setting may be: a test of its value, and the same in words for the message."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from training.errors import SettingsError


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """What is allowed."""

    holds: Callable[[Any], bool]
    """Whether a value is allowed; NaN never is."""
    allowed: str
    """The same in words, after "must be"."""


def check(section: str, settings: object, **rules: Rule) -> None:
    """Hold fields of a section against their rules.

    Args:
        section: its name in ``sensorloop.toml``.
        settings: the section.
        **rules: field → rule.

    Raises:
        SettingsError: a field breaks its rule; the message names section, key, value and what is allowed.
    """
    for key, rule in rules.items():
        value = getattr(settings, key)
        try:
            fine = rule.holds(value)
        except TypeError:  # a number where a list belongs
            fine = False
        if not fine:
            msg = f"[{section}] {key} = {_shown(value)}: must be {rule.allowed}"
            raise SettingsError(msg)


def at_least(least: int, why: str = "") -> Rule:
    """A whole number from ``least`` up."""
    return Rule(holds=lambda value: value >= least, allowed=f"at least {least}" + (f", {why}" if why else ""))


def one_of(choices: Iterable[str]) -> Rule:
    """One of these words."""
    known = tuple(choices)
    return Rule(holds=lambda value: value in known, allowed=f"one of {', '.join(known)}")


SHARE = Rule(holds=lambda value: 0 <= value <= 1, allowed="a share from 0 to 1")
PART = Rule(holds=lambda value: 0 < value < 1, allowed="a share above 0 and below 1")
FLOOR = Rule(holds=lambda value: 0 < value <= 1, allowed="a share above 0, at most 1")
DIFFERENCE = Rule(holds=lambda value: -1 <= value <= 1, allowed="a difference of shares, from -1 to 1")
POSITIVE = Rule(holds=lambda value: 0 < value < math.inf, allowed="a number above 0")
NOT_NEGATIVE = Rule(holds=lambda value: 0 <= value < math.inf, allowed="a number from 0 up")
DURATION = Rule(holds=lambda value: value > timedelta(0), allowed="longer than nothing")
# NumPy knows no negative seeds, and the samplers of imbalanced-learn none beyond 32 bits.
SEED = Rule(holds=lambda value: 0 <= value < 2**32, allowed=f"a whole number from 0 to {2**32 - 1}")
NAMES = Rule(
    holds=lambda value: all(value) and len(set(value)) == len(value),
    allowed="a list of names, none of them empty or twice",
)
SOME_NAMES = Rule(
    holds=lambda value: bool(value) and NAMES.holds(value),
    allowed="a list of one or more names, none of them empty or twice",
)
PULLS = Rule(
    holds=lambda value: bool(value) and all(map(POSITIVE.holds, value)) and len(set(value)) == len(value),
    allowed="a list of one or more numbers above 0, none of them twice",
)
SOME_SHARES = Rule(
    holds=lambda value: bool(value) and all(map(FLOOR.holds, value)) and len(set(value)) == len(value),
    allowed="a list of one or more shares above 0, at most 1, none of them twice",
)
ASCENDING_PARTS = Rule(
    holds=lambda value: bool(value) and all(map(PART.holds, value)) and list(value) == sorted(set(value)),
    allowed="a list of one or more ascending shares, above 0 and below 1",
)


def _shown(value: Any) -> str:
    """As it is written in the file."""
    if isinstance(value, timedelta):
        return f"{value.total_seconds():g} s"
    return repr(list(value) if isinstance(value, tuple) else value)
