"""Aliases that somebody moved by hand in MLflow."""

from __future__ import annotations

import pytest

from registry.errors import ChampionMoved
from registry.versions import Alias
from tests.fakes.versions import MemoryVersions
from tests.registry.houses import PASSED, House


def test_a_move_by_hand_is_entered_and_stands(house: House) -> None:
    for _ in range(2):
        house.promote(house.register())
    third = house.register()
    house.store.point(Alias.CHAMPION, third)
    (problem,) = house.promotions().verify()
    assert problem.text == "The ledger's champion is version 2, MLflow's is version 3."
    (entry,) = house.promotions().reconcile()
    assert (entry.action, entry.version, entry.previous_version) == ("manual", "3", "2")
    assert entry.who == "somebody, in MLflow (noticed by ana)"
    assert house.promotions().reconcile() == ()
    assert house.promotions().verify() == ()
    assert house.store.alias(Alias.CHAMPION) == "3"
    assert house.promotions().rollback().champion == "2"


def test_going_back_by_hand_is_going_back(house: House) -> None:
    for _ in range(3):
        house.promote(house.register())
    house.store.point(Alias.CHAMPION, "2")
    outcome = house.promotions().rollback()
    assert [entry.version for entry in outcome.noticed] == ["2"]
    assert outcome.champion == "1"  # not 3, which somebody went away from


def test_a_champion_from_before_the_ledger(house: House) -> None:
    house.store.point(Alias.CHAMPION, house.register())
    second = house.register()
    with pytest.raises(ChampionMoved):
        house.promotions().promote(second, PASSED, judged_against=None)
    outcome = house.promotions().promote(second, PASSED, judged_against="1")
    assert [(entry.action, entry.version) for entry in house.ledger.entries()] == [("manual", "1"), ("promote", "2")]
    assert outcome.entry.previous_version == "1"


def test_a_deleted_champion_leaves_none(house: House) -> None:
    assert isinstance(house.store, MemoryVersions)
    for _ in range(2):
        house.promote(house.register())
    house.store.delete("2")
    third = house.register()
    outcome = house.promotions().promote(third, PASSED, judged_against=None)
    assert [(entry.action, entry.version) for entry in outcome.noticed] == [("manual", None)]
    assert outcome.champion == third
    assert house.promotions().verify() == ()
    assert house.promotions().rollback().champion == "1"
