"""What a fleet is like, and the two that the demo uses."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from streaming.errors import SettingsError
from streaming.fleet.people import POSITIONS
from streaming.fleet.phones import MODELS, SENSED
from streaming.fleet.scenes import SCENES


@dataclass(frozen=True, kw_only=True, slots=True)
class FleetSettings:
    """One simulated fleet."""

    cohort: str
    """Goes into every recording's ``cohort``, and starts every device's and person's id."""
    seed: int = 1
    """The same seed gives the same bytes; it is part of the ids, so that two seeds are never taken for one another."""
    people: int = 12
    """Persons, each with one phone."""
    careful_people: int = 0
    """How many of them label every session rightly and cover every scene evenly: what a fleet owner would hold out."""
    per_scene: timedelta = timedelta(minutes=2)
    """Recorded time per person and scene, on average over scenes and people."""
    session: timedelta = timedelta(minutes=1)
    """Usual length of a session; a session is one person in one scene."""
    scene_balance: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(SCENES, 1.0))
    """Scene → relative time that people who are not careful spend in it. Even by default."""
    wrong_labels: float = 0.0
    """Share of sessions with a wrong label, among those of people who are not careful. Half of them keep the label of the
    session before (forgotten), half have any other (mistaken)."""
    shift: float = 0.0
    """How far people, phones, carrying and city are from those of the source: 0 the same, 1 the target's."""
    phone_models: tuple[str, ...] = ()
    """Phone models, evenly spread; empty: those of the population that ``shift`` says."""
    positions: tuple[str, ...] = ()
    """Carrying positions, evenly spread; empty: those of the population that ``shift`` says."""
    sensors: tuple[str, ...] = ("accelerometer", "gyroscope", "magnetometer", "pressure")
    """Sensors recorded, on phones that have them."""
    dropouts_per_minute: float = 0.4
    """Drop-outs of 0.05 to 3 s, on a phone of average manners."""
    clock_offset: timedelta = timedelta(hours=1)
    """Largest error of a phone's clock; most are within a minute or two."""
    start: datetime = datetime(2024, 3, 4, 7, 0, tzinfo=UTC)
    """When the first day begins. Fixed, so that the same seed gives the same bytes."""
    days: int = 3
    """Days over which a person's sessions are spread."""

    def __post_init__(self) -> None:
        _known("scene_balance", self.scene_balance, SCENES)
        _known("phone_models", self.phone_models, MODELS)
        _known("positions", self.positions, POSITIONS)
        _known("sensors", self.sensors, SENSED)
        rules = {
            "people must be at least 1": self.people >= 1,
            f"careful_people must be between 0 and people ({self.people})": 0 <= self.careful_people <= self.people,
            "per_scene must be positive": self.per_scene > timedelta(0),
            "session must be at least 1 s": self.session >= timedelta(seconds=1),
            "wrong_labels must be between 0 and 1": 0 <= self.wrong_labels <= 1,
            "shift must be between 0 and 1": 0 <= self.shift <= 1,
            "scene_balance needs a scene with more than 0, and none with less": _is_balance(self.scene_balance),
            "dropouts_per_minute must not be negative": self.dropouts_per_minute >= 0,
            "start needs a time zone": self.start.tzinfo is not None,
            "days must be at least 1": self.days >= 1,
            "sensors must not be empty": len(self.sensors) > 0,
            "seed must not be negative": self.seed >= 0,
        }
        for rule, kept in rules.items():
            if not kept:
                msg = f"fleet '{self.cohort}': {rule}"
                raise SettingsError(msg)


def source_fleet(*, seed: int = 1, size: float = 1.0) -> FleetSettings:
    """Volunteers who labelled every scene evenly and rightly; at size 1 about 190 minutes, 4400 windows of 5 s."""
    people = max(4, _people(12, size))
    return FleetSettings(
        cohort="source",
        seed=seed,
        people=people,
        per_scene=timedelta(minutes=2) * (12 * size / people),
    )


def target_fleet(*, seed: int = 1, size: float = 1.0, shift: float = 1.0) -> FleetSettings:
    """Other people with other phones: scenes up to 10:1, a fifth of the labels wrong, and a few careful people.

    At size 1 about 110 minutes, 2500 windows of 5 s, of which 900 are of the five careful people.
    """
    people = max(6, _people(14, size))
    return FleetSettings(
        cohort="target",
        seed=seed,
        people=people,
        careful_people=max(2, round(people * 5 / 14)),
        per_scene=timedelta(minutes=1) * (14 * size / people),
        session=timedelta(seconds=40),
        scene_balance={"Still": 10, "Walk": 8, "Run": 1, "Bike": 1.5, "Car": 6, "Bus": 4, "Train": 3, "Subway": 2},
        wrong_labels=0.2,
        shift=shift,
    )


def _people(usual: int, size: float) -> int:
    """A fleet of twice the size has √2 times the people, each with √2 times the recordings."""
    if size <= 0:
        msg = f"size = {size}: a fleet's size must be positive"
        raise SettingsError(msg)
    return round(usual * math.sqrt(size))


def _is_balance(balance: Mapping[str, float]) -> bool:
    return all(share >= 0 for share in balance.values()) and sum(balance.values()) > 0


def _known(setting: str, names: Collection[str], known: Collection[str]) -> None:
    for name in names:
        if name not in known:
            msg = f"{setting}: '{name}' is not known; known: {', '.join(known)}"
            raise SettingsError(msg)
