"""Several promotions or rollbacks at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from registry.errors import ChampionMoved, LedgerBusy, LedgerUnavailable, LockLost, PromotionError, RegistryError
from registry.promotion import Outcome, Promotions
from registry.versions import Alias
from tests.registry.houses import PASSED, House, prepared


@contextmanager
def _all_at_once(*calls: Callable[[], Outcome]) -> Iterator[list[Outcome | Exception]]:
    results: list[Outcome | Exception] = []
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], Outcome]) -> None:
        barrier.wait()
        try:
            results.append(call())
        except PromotionError as error:
            results.append(error)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    yield results


def test_of_several_promotions_at_once_one_wins(house: House) -> None:
    prepared(house, 1)
    versions = ["2", "3", *(house.register() for _ in range(4))]
    calls = [
        lambda version=version: house.promotions().promote(version, PASSED, judged_against="1")  # type: ignore[misc]
        for version in versions
    ]
    with _all_at_once(*calls) as results:
        won = [result for result in results if isinstance(result, Outcome)]
        assert len(won) == 1
        assert sum(isinstance(result, ChampionMoved) for result in results) == len(versions) - 1
    assert house.store.alias(Alias.CHAMPION) == won[0].entry.version
    assert len(house.ledger.entries()) == 2
    assert house.promotions().verify() == ()


def test_rollbacks_at_once_are_one(house: House) -> None:
    """Whoever saw champion 4 before waiting goes back from 4; nobody goes further back for having waited."""
    prepared(house, 3)
    house.promote(house.register())
    seen = threading.Semaphore(0)
    results: list[Outcome] = []

    def roll_back() -> None:
        ledger: Any = _Seen(house.ledger, seen)
        results.append(Promotions(house.store, ledger, clock=house.clock, who="ana").rollback())

    threads = [threading.Thread(target=roll_back) for _ in range(5)]
    with house.ledger.exclusive():
        for thread in threads:
            thread.start()
        for _ in threads:
            seen.acquire()
    for thread in threads:
        thread.join()
    assert {result.entry.sequence for result in results} == {5}
    assert sum(not result.repeated for result in results) == 1
    assert house.store.alias(Alias.CHAMPION) == "3"


class _Seen:
    """A ledger that says when it is asked for the lock: its user has then seen who is champion."""

    def __init__(self, inner: Any, seen: threading.Semaphore) -> None:
        self._inner = inner
        self._seen = seen

    def __getattr__(self, name: str) -> Any:
        if name == "exclusive":
            self._seen.release()
        return getattr(self._inner, name)


class _WithoutLock:
    """A ledger whose lock goes with PostgreSQL's connection, without its holder being told; ``after`` names a step that then hangs."""

    def __init__(self, inner: Any, meanwhile: Callable[[], Any], after: str = "") -> None:
        self._inner, self._meanwhile, self._after = inner, meanwhile, after
        self.alive = True

    @contextmanager
    def exclusive(self) -> Iterator[Callable[[], bool]]:
        yield lambda: self.alive

    def append(self, *arguments: Any, **options: Any) -> Any:
        entry = self._inner.append(*arguments, **options)
        if self._after == "append":
            self.alive = False
            self._meanwhile()
        return entry

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _Slow:
    """Versions in an MLflow that hangs before it points an alias, once."""

    def __init__(self, inner: Any, hang: Callable[[], None] | None) -> None:
        self._inner, self._hang = inner, hang
        self.pointed: list[str] = []

    def point(self, alias: str, version: str) -> None:
        hang, self._hang = self._hang, None
        if hang is not None:
            hang()
        self.pointed.append(version)
        self._inner.point(alias, version)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


@pytest.mark.parametrize("hangs", ["in MLflow", "before it"])
def test_who_has_lost_the_lock_does_not_put_an_old_champion_back(house: House, hangs: str) -> None:
    """PostgreSQL is restarted while a promotion hangs; another promotion is made, and then the first goes on."""
    prepared(house, 1)

    def meanwhile() -> None:
        ledger.alive = False
        assert house.promotions(who="ben").promote("3", PASSED, judged_against="2").champion == "3"

    ledger: Any = _WithoutLock(house.ledger, meanwhile, after="" if hangs == "in MLflow" else "append")
    store: Any = _Slow(house.store, meanwhile if hangs == "in MLflow" else None)
    late = Promotions(store, ledger, clock=house.clock, who="ana")
    with pytest.raises(LockLost, match=r"entry 2 \(champion: version 2\).*try again") as error:
        late.promote("2", PASSED, judged_against="1")
    assert error.value.retriable
    assert store.pointed == (["2", "3"] if hangs == "in MLflow" else [])
    assert house.store.alias(Alias.CHAMPION) == "3"
    assert [(entry.action, entry.version) for entry in house.ledger.entries()][1:] == [
        ("promote", "2"),
        ("promote", "3"),
    ]
    assert house.promotions().verify() == ()
    again = house.promotions().promote("2", PASSED, judged_against="1")
    assert (again.repeated, again.champion) == (True, "3")


class _LostForGood(_WithoutLock):
    """The same, and whoever asks for the lock once more does not get it."""

    def __init__(self, inner: Any, meanwhile: Callable[[], Any], error: RegistryError) -> None:
        super().__init__(inner, meanwhile)
        self._error: RegistryError = error
        self._taken = False

    @contextmanager
    def exclusive(self) -> Iterator[Callable[[], bool]]:
        if self._taken:
            raise self._error
        self._taken = True
        with super().exclusive() as held:
            yield held


@pytest.mark.parametrize("error", [LedgerBusy("Somebody has it."), LedgerUnavailable("No answer.")])
def test_who_cannot_have_the_lock_again_says_so_and_how_the_newer_champion_is_put_back(
    house: House, error: RegistryError
) -> None:
    prepared(house, 1)

    def meanwhile() -> None:
        ledger.alive = False
        house.promotions(who="ben").promote("3", PASSED, judged_against="2")

    ledger: Any = _LostForGood(house.ledger, meanwhile, error)
    store: Any = _Slow(house.store, meanwhile)
    late = Promotions(store, ledger, clock=house.clock, who="ana")
    with pytest.raises(
        LockLost, match=rf"entry 2 .*try again.* \({error}\).*'sensorloop registry rollback --to"
    ) as lost:
        late.promote("2", PASSED, judged_against="1")
    assert lost.value.retriable
    assert lost.value.__cause__ is error
    assert house.store.alias(Alias.CHAMPION) == "2", "what docs/registry.md says of it"
    assert house.promotions().disagreement() is not None
    assert house.promotions().rollback(to="3").champion == "3"
    assert [(entry.action, entry.version) for entry in house.ledger.entries()][2:] == [
        ("promote", "3"),
        ("manual", "2"),
        ("rollback", "3"),
    ]
    assert house.store.alias(Alias.CHAMPION) == "3"
    assert house.promotions().verify() == ()


def test_a_lock_that_is_lost_while_nobody_came_is_no_harm(house: House) -> None:
    prepared(house, 1)
    ledger: Any = _WithoutLock(house.ledger, lambda: None, after="append")
    with pytest.raises(LockLost):
        Promotions(house.store, ledger, clock=house.clock, who="ana").promote("2", PASSED, judged_against="1")
    assert house.store.alias(Alias.CHAMPION) == "1"
    again = house.promotions().promote("2", PASSED, judged_against="1")
    assert (again.repeated, again.champion, house.store.alias(Alias.CHAMPION)) == (True, "2", "2")
    assert house.promotions().verify() == ()
