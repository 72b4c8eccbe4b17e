"""Going back to champions before."""

from __future__ import annotations

import pytest

from registry.errors import ModelNotFound, NothingToRollBack
from registry.versions import Alias
from tests.fakes.versions import MemoryVersions
from tests.registry.houses import House


def test_rollbacks_go_further_and_further_back(house: House) -> None:
    for _ in range(3):
        house.promote(house.register())
    assert [house.promotions().rollback().champion for _ in range(2)] == ["2", "1"]
    before = house.state()
    with pytest.raises(NothingToRollBack, match="version 1"):
        house.promotions().rollback()
    assert house.state() == before
    assert house.promotions().verify() == ()


def test_a_rollback_never_returns_to_what_was_left(house: House) -> None:
    for _ in range(3):
        house.promote(house.register())
    house.promotions().rollback()  # 3 → 2
    house.promote(house.register())  # 2 → 4
    assert house.promotions().rollback().champion == "2"
    assert house.promotions().rollback().champion == "1"


def test_a_named_version_is_put_back(house: House) -> None:
    for _ in range(3):
        house.promote(house.register())
    house.promotions().rollback()
    outcome = house.promotions().rollback(to="3", why="It was not the model.")
    assert outcome.champion == "3"
    assert outcome.entry.why == "It was not the model. (Named by the operator.)"
    assert house.promotions().rollback(to="3").repeated
    assert house.promotions().rollback().champion == "2"  # undoing a rollback brings the line back
    assert house.promotions().rollback(to="1").champion == "1"
    assert house.promotions().rollback(to="3").champion == "3"
    with pytest.raises(ModelNotFound):
        house.promotions().rollback(to="9")
    assert house.promotions().rollback().champion == "2"


def test_without_an_earlier_champion_the_original_serves(house: House) -> None:
    original, first = house.register(), house.register()
    house.store.point(Alias.ORIGINAL, original)
    house.promote(first)
    outcome = house.promotions().rollback()
    assert outcome.champion == original
    assert outcome.entry.why == "No champion before: the original model as it is."
    with pytest.raises(NothingToRollBack):
        house.promotions().rollback()


def test_nothing_to_roll_back_at_all(house: House) -> None:
    with pytest.raises(NothingToRollBack, match="no version"):
        house.promotions().rollback()


def test_deleted_versions_are_passed_over(house: House) -> None:
    assert isinstance(house.store, MemoryVersions)
    for _ in range(3):
        house.promote(house.register())
    house.store.delete("2")
    outcome = house.promotions().rollback()
    assert outcome.champion == "1"
    assert outcome.entry.why.endswith("Passed over, because deleted: 2.")
