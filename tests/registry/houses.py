"""A registered model with its ledger, for the tests of promotion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from registry.bounds import Person
from registry.gate import Score, verdict
from registry.ledger import Ledger
from registry.promotion import Outcome, Promotions
from registry.settings import GateSettings
from registry.versions import VersionStore
from tests.fakes.versions import Fuse, Fused

GOOD = Score(
    accuracy=0.8, macro_f1=0.75, recall={"Still": 0.9, "Walk": 0.7}, windows=400, subjects=4, holdout="h1",
    people=[Person(right=right, windows=100) for right in (78, 79, 81, 82)], latency_s=0.02, size_mb=85.0,
)  # fmt: skip

PASSED = verdict(GOOD, None, replace(GOOD, accuracy=0.5, macro_f1=0.4), 0.85, GateSettings())

REFUSED = verdict(replace(GOOD, accuracy=0.6), None, replace(GOOD, accuracy=0.5), 0.85, GateSettings())

STALE = verdict(GOOD, replace(GOOD, holdout="h0"), replace(GOOD, accuracy=0.5), 0.85, GateSettings())


class House:
    """A registered model, its ledger, and promotions that can be killed."""

    def __init__(self, store: VersionStore, url: str, register: Callable[[], str]) -> None:
        self.store = store
        self.url = url
        self.register = register
        self._minutes = count()

    def clock(self) -> datetime:
        return datetime(2026, 3, 1, 12, tzinfo=UTC) + timedelta(minutes=next(self._minutes))

    def promotions(self, writes: int | None = None, who: str = "ana") -> Promotions:
        """Ready to promote; killed before the write after so many."""
        fuse = Fuse(writes)
        store: Any = Fused(self.store, fuse, ("point", "unpoint", "tag"))
        ledger: Any = Fused(Ledger(self.url), fuse, ("append", "settle"))
        return Promotions(store, ledger, clock=self.clock, who=who)

    def promote(self, version: str) -> Outcome:
        now = self.promotions()
        return now.promote(version, PASSED, judged_against=now.champion())

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.url)

    def state(self) -> tuple[Any, ...]:
        """Everything but the time."""
        versions = [
            (
                version.version,
                version.aliases,
                {key: text for key, text in version.tags.items() if key != "ledger_entry"},
            )
            for version in self.store.versions()
        ]
        entries = [(entry.action, entry.version, entry.previous_version, entry.why) for entry in self.ledger.entries()]
        return (
            versions,
            entries,
            [self.ledger.is_settled(entry) for entry in self.ledger.entries() if entry.moves_champion],
        )


def prepared(house: House, promoted: int) -> House:
    for _ in range(3):
        house.register()
    for number in range(1, promoted + 1):
        house.promote(str(number))
    return house
