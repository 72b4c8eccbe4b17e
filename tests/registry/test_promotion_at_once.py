"""Several promotions or rollbacks at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from registry.errors import ChampionMoved, PromotionError
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
