"""Going back to champions before."""

from __future__ import annotations

from typing import Any

import pytest

from registry.errors import ChampionMoved, ModelNotFound, NothingToRollBack
from registry.promotion import Promotions
from registry.versions import Alias
from tests.fakes.versions import Killed, MemoryVersions
from tests.registry.houses import House, prepared


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
    with pytest.raises(NothingToRollBack, match="no champion is left"):
        house.promotions().rollback()


def test_deleted_versions_are_passed_over(house: House) -> None:
    assert isinstance(house.store, MemoryVersions)
    for _ in range(3):
        house.promote(house.register())
    house.store.delete("2")
    outcome = house.promotions().rollback()
    assert outcome.champion == "1"
    assert outcome.entry.why.endswith("Passed over, because deleted: 2.")


class _CutOff:
    """Announcements during which the command is killed."""

    def begin(self) -> None:
        pass

    def deliver(self) -> None:
        raise Killed


def cut_off(house: House, **options: Any) -> list[str | None]:
    """A rollback that is killed after its end; what its caller was told before."""
    notices: Any = _CutOff()
    told: list[str | None] = []
    promotions = Promotions(house.store, house.ledger, clock=house.clock, who="ana", notices=notices)
    with pytest.raises(Killed):
        promotions.rollback(told=lambda outcome: told.append(outcome.champion), **options)
    return told


def test_a_rollback_that_says_from_where_is_not_doubled(house: House) -> None:
    prepared(house, 3)
    assert cut_off(house, expected="3") == ["2"], "its caller is told before others are"
    again = house.promotions().rollback(expected="3", why="Was it done?")
    assert (again.champion, again.repeated) == ("2", True)
    assert house.promotions().rollback(expected="3", to="2").repeated
    before = house.state()
    with pytest.raises(ChampionMoved, match="the champion is version 2, not version 3"):
        house.promotions().rollback(expected="3", to="1")
    with pytest.raises(ChampionMoved, match="the champion is version 2, not version 1"):
        house.promotions().rollback(expected="1")
    assert house.state() == before
    assert house.promotions().rollback(expected="2").champion == "1"
    house.store.point(Alias.CHAMPION, "2")  # by hand: this is another time that 2 serves
    outcome = house.promotions().rollback(expected="2")
    assert (outcome.champion, outcome.repeated) == ("1", False)
    assert house.promotions().verify() == ()


@pytest.mark.parametrize("writes", range(4))
def test_killed_before_its_end_it_is_finished(house: House, writes: int) -> None:
    prepared(house, 3)
    with pytest.raises(Killed):
        house.promotions(writes).rollback(expected="3")
    assert house.promotions().rollback(expected="3").champion == "2"
    assert house.store.alias(Alias.CHAMPION) == "2"
    assert [entry.action for entry in house.ledger.entries()].count("rollback") == 1
    assert house.promotions().verify() == ()
