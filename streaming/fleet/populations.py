"""Who is simulated: the population that the original model comes from, the one it has to serve, and any blend of the two."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from streaming.fleet.people import Traits
from streaming.fleet.rides import Place


@dataclass(frozen=True, kw_only=True, slots=True)
class Population:
    """People, the phones they have and how they carry them, and the city they live in."""

    traits: Traits
    """How they move."""
    place: Place
    """Where they live."""
    positions: Mapping[str, float]
    """Carrying position → share of sessions."""
    phone_models: Mapping[str, float]
    """Phone model → share of people."""


HOME = Population(
    traits=Traits(
        walk_hz=(1.85, 0.09),
        run_hz=(2.7, 0.12),
        cadence_hz=(1.15, 0.1),
        vigour=(1.0, 0.1),
        lameness=(0.1, 0.05),
        restlessness=(1.0, 0.3),
    ),
    place=Place(road=1.0, engine=1.0, engine_hz=1.0, rail=1.0, joints=1.0, traction=1.0, mains=0.0, iron=1.0, pace=1.0),
    positions={"hips": 0.6, "torso": 0.4},
    phone_models={"Aster 9": 0.4, "Aster 9 Pro": 0.3, "Borage X": 0.3},
)
"""A campaign of volunteers: good phones in trouser and chest pockets."""

AWAY = Population(
    traits=Traits(
        walk_hz=(1.5, 0.08),
        run_hz=(2.3, 0.08),
        cadence_hz=(0.9, 0.08),
        vigour=(0.75, 0.08),
        lameness=(0.2, 0.1),
        restlessness=(1.3, 0.4),
    ),
    place=Place(
        road=1.3, engine=1.3, engine_hz=1.4, rail=2.0, joints=0.4, traction=1.8, mains=1.0, iron=1.4, pace=0.85
    ),
    positions={"hand": 0.5, "bag": 0.5},
    phone_models={"Cosmea 3": 0.4, "Cosmea Lite": 0.3, "Dahlia 5G": 0.3},
)
"""A fleet of commuters elsewhere: other phones in hands and bags, older people, rougher roads, electric cars."""


def blend(home: Population, away: Population, shift: float) -> Population:
    """``shift`` of the way (0 to 1) from one population to the other."""

    def between(first: float, second: float) -> float:
        return first + shift * (second - first)

    def shares(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, float]:
        names = [*first, *(name for name in second if name not in first)]
        mixed = {name: between(first.get(name, 0.0), second.get(name, 0.0)) for name in names}
        return {name: share for name, share in mixed.items() if share > 0}

    traits = {
        field.name: (
            between(getattr(home.traits, field.name)[0], getattr(away.traits, field.name)[0]),
            between(getattr(home.traits, field.name)[1], getattr(away.traits, field.name)[1]),
        )
        for field in dataclasses.fields(Traits)
    }
    place = {
        field.name: between(getattr(home.place, field.name), getattr(away.place, field.name))
        for field in dataclasses.fields(Place)
    }
    return Population(
        traits=Traits(**traits),
        place=Place(**place),
        positions=shares(home.positions, away.positions),
        phone_models=shares(home.phone_models, away.phone_models),
    )
