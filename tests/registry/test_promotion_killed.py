"""Promotion and rollback killed between any two steps, and repaired by whatever comes next."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest

from registry.versions import Alias
from tests.fakes.versions import Killed, MemoryVersions
from tests.registry.houses import PASSED, REFUSED, House, prepared


def _first(house: House, writes: int | None) -> None:
    house.promotions(writes).promote("1", PASSED, judged_against=None)


def _second(house: House, writes: int | None) -> None:
    house.promotions(writes).promote("2", PASSED, judged_against="1")


def _refusal(house: House, writes: int | None) -> None:
    house.promotions(writes).refuse("2", REFUSED)


def _rollback(house: House, writes: int | None) -> None:
    house.promotions(writes).rollback(why="Buses are mistaken for trains.")


def _by_hand(house: House, writes: int | None) -> None:
    if house.store.alias(Alias.CHAMPION) == "2":
        house.store.point(Alias.CHAMPION, "1")
    house.promotions(writes).reconcile()


SCENARIOS: dict[str, tuple[int, Callable[[House, int | None], None]]] = {
    "first promotion": (0, _first),
    "second promotion": (1, _second),
    "refusal": (1, _refusal),
    "rollback": (2, _rollback),
    "by hand": (2, _by_hand),
}


def _kill_everywhere(make: Callable[[], House], scenario: str, finish: str) -> int:
    promoted, act = SCENARIOS[scenario]
    calm = prepared(make(), promoted)
    act(calm, None)
    for writes in count():
        house = prepared(make(), promoted)
        try:
            act(house, writes)
        except Killed:
            if finish == "reconciled first":
                house.promotions().reconcile()
            act(house, None)
            assert house.state() == calm.state(), f"killed before write {writes + 1}"
            assert house.promotions().verify() == ()
        else:
            return writes
    raise AssertionError


# A rollback that somebody else finished first is not in the list: calling it again is a second rollback. See the next test.
@pytest.mark.parametrize(
    ("scenario", "steps", "finish"),
    [
        ("first promotion", 5, "called again"),
        ("first promotion", 5, "reconciled first"),
        ("second promotion", 5, "called again"),
        ("second promotion", 5, "reconciled first"),
        ("refusal", 2, "called again"),
        ("refusal", 2, "reconciled first"),
        ("rollback", 4, "called again"),
        ("by hand", 3, "called again"),
        ("by hand", 3, "reconciled first"),
    ],
)
def test_killed_between_any_two_steps_it_converges(tmp_path: Path, scenario: str, steps: int, finish: str) -> None:
    numbers = count()

    def make() -> House:
        memory = MemoryVersions()
        return House(memory, f"sqlite:///{tmp_path / f'ledger{next(numbers)}.db'}", memory.register)

    assert _kill_everywhere(make, scenario, finish) == steps


@pytest.mark.parametrize("writes", range(4))
def test_a_killed_rollback_is_finished_by_whatever_comes_next(house: House, writes: int) -> None:
    prepared(house, 3)
    with pytest.raises(Killed):
        house.promotions(writes).rollback()
    entered = len(house.ledger.entries()) == 4
    house.promotions().reconcile()
    assert house.store.alias(Alias.CHAMPION) == ("2" if entered else "3")
    assert house.promotions().verify() == ()


@pytest.mark.parametrize("scenario", ["second promotion", "rollback"])
def test_the_same_in_mlflow(real_house: House, scenario: str) -> None:
    """One house after the other would take long: kill, finish and undo in the same one."""
    promoted, act = SCENARIOS[scenario]
    prepared(real_house, promoted)
    for writes in range(5):
        with suppress(Killed):
            act(real_house, writes)
        real_house.promotions().reconcile()
        assert real_house.promotions().verify() == ()
        if scenario == "rollback":
            real_house.promotions().rollback(to="2")
    act(real_house, None)
    assert real_house.store.alias(Alias.CHAMPION) == ("2" if scenario == "second promotion" else "1")
    entry = real_house.ledger.champion("scene-recogniser")
    assert entry is not None
    assert entry.version == real_house.store.alias(Alias.CHAMPION)
    sequences = [entry.sequence for entry in real_house.ledger.entries()]
    assert sequences == list(range(1, len(sequences) + 1))


def test_a_hand_between_the_kill_and_the_repair_wins(house: House) -> None:
    """Killed after the ledger's entry; before anybody repaired it, somebody pointed the alias elsewhere."""
    prepared(house, 1)
    with pytest.raises(Killed):
        house.promotions(2).promote("2", PASSED, judged_against="1")
    assert len(house.ledger.entries()) == 2
    house.store.point(Alias.CHAMPION, "3")
    outcome = house.promotions().promote("2", PASSED, judged_against="1")
    assert outcome.repeated
    assert outcome.champion == house.store.alias(Alias.CHAMPION) == "3"
    assert house.promotions().verify() == ()


def test_a_version_deleted_between_the_kill_and_the_repair(house: House) -> None:
    assert isinstance(house.store, MemoryVersions)
    prepared(house, 1)
    with pytest.raises(Killed):
        house.promotions(2).promote("2", PASSED, judged_against="1")
    house.store.delete("2")
    (entry,) = house.promotions().reconcile()
    assert (entry.action, entry.version) == ("manual", "1")
    assert house.store.alias(Alias.CHAMPION) == "1"
    assert house.promotions().verify() == ()
