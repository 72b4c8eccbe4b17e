"""Promotion and rollback: killed between any two steps, two at once, by hand in MLflow, and what the ledger says of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sql
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient

from registry.errors import ChampionMoved, ModelNotFound, NothingToRollBack, PromotionError
from registry.gate import Score, Verdict, verdict
from registry.ledger import Ledger
from registry.promotion import Outcome, Promotions
from registry.registered import MlflowVersions
from registry.settings import GateSettings
from registry.versions import Alias, VersionStore
from tests.fakes.versions import Fuse, Fused, Killed, MemoryVersions

GOOD = Score(
    accuracy=0.8, macro_f1=0.75, recall={"Still": 0.9, "Walk": 0.7}, windows=400, subjects=4, holdout="h1"
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


@pytest.fixture
def house(tmp_path: Path) -> House:
    memory = MemoryVersions()
    return House(memory, f"sqlite:///{tmp_path / 'ledger.db'}", memory.register)


@pytest.fixture
def real_house(client: MlflowClient, database: str) -> House:
    """MLflow's registry and the ledger in one database."""
    store = MlflowVersions(client, "scene-recogniser")
    experiment = client.create_experiment("models")

    def register() -> str:
        run = client.create_run(experiment)
        model = client.create_logged_model(experiment, name="model", source_run_id=run.info.run_id)
        number = len(store.versions()) + 1
        tags = {"run_key": f"key{number}", "lake_version": "17"}
        return store.register(
            source=model.model_uri, model_id=model.model_id, run_id=run.info.run_id, description="A model.", tags=tags,
            alias=Alias.CHALLENGER,
        ).version  # fmt: skip

    return House(store, database, register)


def test_the_first_promotion(house: House) -> None:
    version = house.register()
    house.store.point(Alias.CHALLENGER, version)
    outcome = house.promote(version)
    assert (outcome.champion, outcome.repeated, outcome.noticed) == ("1", False, ())
    assert house.store.alias(Alias.CHAMPION) == "1"
    assert house.store.alias(Alias.CHALLENGER) is None
    tags = house.store.version("1").tags
    assert tags["validation_status"] == "passed"
    assert tags["recovery_ratio"] == "0.9412"
    assert tags["verdict"].splitlines() == list(PASSED.reasons)
    (entry,) = house.promotions().history()
    assert tags["ledger_entry"] == f"1:{entry.hash}"
    assert (entry.action, entry.version, entry.previous_version, entry.who) == ("promote", "1", None, "ana")
    assert (entry.lake_version, entry.run_key) == ("17", "key1")
    assert entry.verdict
    assert Verdict.from_json(entry.verdict) == PASSED
    assert house.promotions().verify() == ()


def test_promoting_twice_is_promoting_once(house: House) -> None:
    house.register()
    first = house.promote("1")
    again = house.promotions(who="ben").promote("1", PASSED, judged_against=None)
    assert again.repeated
    assert again.entry == first.entry
    assert len(house.ledger.entries()) == 1


def test_a_late_repetition_does_not_undo_what_came_after(house: House) -> None:
    for _ in range(3):
        house.promote(house.register())
    house.promotions().rollback()
    again = house.promotions().promote("3", PASSED, judged_against="2")
    assert again.repeated
    assert again.champion == house.store.alias(Alias.CHAMPION) == "2"


def test_what_must_not_be_promoted(house: House) -> None:
    version = house.register()
    with pytest.raises(PromotionError, match="recovery_ratio"):
        house.promotions().promote(version, REFUSED, judged_against=None)
    with pytest.raises(ModelNotFound):
        house.promotions().promote("7", PASSED, judged_against=None)
    for wrong in (PASSED, STALE):
        with pytest.raises(PromotionError, match="no refusal"):
            house.promotions().refuse(version, wrong)
    assert house.ledger.entries() == ()
    assert house.store.alias(Alias.CHAMPION) is None


def test_a_verdict_against_an_earlier_champion_is_not_enough(house: House) -> None:
    house.promote(house.register())
    second, third = house.register(), house.register()
    house.promote(second)
    before = house.state()
    with pytest.raises(ChampionMoved, match="judged against version 1, but the champion is now version 2"):
        house.promotions().promote(third, PASSED, judged_against="1")
    assert house.state() == before
    assert house.promotions().promote(third, PASSED, judged_against="2").champion == third


def test_a_refusal_is_entered_and_the_champion_stays(house: House) -> None:
    house.promote(house.register())
    version = house.register()
    house.store.point(Alias.CHALLENGER, version)
    outcome = house.promotions().refuse(version, REFUSED)
    assert outcome.champion == house.store.alias(Alias.CHAMPION) == "1"
    assert house.store.alias(Alias.CHALLENGER) is None
    assert house.store.version(version).tags["validation_status"] == "refused"
    assert outcome.entry.previous_version == "1"
    assert "0.194 below the threshold 0.9" in outcome.entry.why
    assert house.promotions().refuse(version, REFUSED).repeated
    assert len(house.ledger.entries()) == 2


def test_a_judgement_stands_and_who_serves_is_not_refused(house: House) -> None:
    first, second, by_hand = house.register(), house.register(), house.register()
    house.promote(first)
    house.promotions().refuse(second, REFUSED)
    before = house.state()
    assert house.promotions().refuse(first, REFUSED).entry == house.promotions().judgement(first)
    assert house.promote(second).entry.action == "refused"
    assert house.promotions().judgement(by_hand) is None
    assert house.state() == before
    house.store.point(Alias.CHAMPION, by_hand)
    with pytest.raises(
        PromotionError, match=r"version 3 does not pass .*recovery_ratio.* not entered as refused while it serves"
    ):
        house.promotions().refuse(by_hand, REFUSED)
    assert "validation_status" not in house.store.version(by_hand).tags or (
        house.store.version(by_hand).tags["validation_status"] == "pending"
    )
    assert house.promotions().judgement(by_hand) is None


# Killed between any two steps.


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


def _prepared(house: House, promoted: int) -> House:
    for _ in range(3):
        house.register()
    for number in range(1, promoted + 1):
        house.promote(str(number))
    return house


def _kill_everywhere(make: Callable[[], House], scenario: str, finish: str) -> int:
    promoted, act = SCENARIOS[scenario]
    calm = _prepared(make(), promoted)
    act(calm, None)
    for writes in count():
        house = _prepared(make(), promoted)
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
    _prepared(house, 3)
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
    _prepared(real_house, promoted)
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


# Rolling back.


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


# By hand in MLflow.


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


def test_a_hand_between_the_kill_and_the_repair_wins(house: House) -> None:
    """Killed after the ledger's entry; before anybody repaired it, somebody pointed the alias elsewhere."""
    _prepared(house, 1)
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
    _prepared(house, 1)
    with pytest.raises(Killed):
        house.promotions(2).promote("2", PASSED, judged_against="1")
    house.store.delete("2")
    (entry,) = house.promotions().reconcile()
    assert (entry.action, entry.version) == ("manual", "1")
    assert house.store.alias(Alias.CHAMPION) == "1"
    assert house.promotions().verify() == ()


# Two at once.


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
    _prepared(house, 1)
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
    _prepared(house, 3)
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


# The account.


def test_explain_tells_the_whole_story(house: House) -> None:
    house.promote(house.register())
    second, third = house.register(), house.register()
    house.promotions().refuse(third, REFUSED)
    house.promote(second)
    house.promotions(who="ben").rollback(why="Buses are mistaken for trains.")
    text = house.promotions().explain(second)
    assert text.splitlines()[0] == "scene-recogniser version 2"
    for part in (
        "from MLflow run run2.",
        "Lake version: 17.",
        "Validation status: passed.",
        "Model 2.",
        "Entry 3, 2026-03-01 12:02:00 UTC: promoted by ana. Champion before: version 1.",
        "Verdict: passed; recovery ratio 0.9412; holdout h1.",
        "From lake version 17, run key key2.",
        "[pass] recovery_ratio: The recovery ratio (accuracy 0.800 on target ÷ 0.850 on source) is 0.941",
        "Entry 4, 2026-03-01 12:03:00 UTC: followed by version 1 (rollback by ben).",
        "Buses are mistaken for trains. (Back to the champion before.)",
    ):
        assert part in text, part
    refused = house.promotions().explain(third)
    assert "refused by ana. Champion before: version 1." in refused
    assert "[FAIL] recovery_ratio" in refused
    champion = house.promotions().explain("1")
    assert champion.startswith("scene-recogniser version 1, the champion")
    assert "stayed champion, version 3 was refused" in champion
    assert "put back by ben" in champion


def test_explain_of_what_nobody_judged_and_of_what_is_gone(house: House) -> None:
    assert isinstance(house.store, MemoryVersions)
    house.promote(house.register())
    house.store.point(Alias.ORIGINAL, "1")
    assert "Also known as: original." in house.promotions().explain("1")
    assert "neither judged nor champion" in house.promotions().explain(house.register())
    house.store.delete("1")
    assert "has been deleted" in house.promotions().explain("1")
    with pytest.raises(ModelNotFound):
        house.promotions().explain("9")


def test_a_ledger_whose_end_was_cut_off_is_found_by_what_mlflow_remembers(house: House) -> None:
    _prepared(house, 2)
    engine = sql.create_engine(house.url)
    with engine.begin() as connection:
        connection.execute(sql.text("DELETE FROM sensorloop_ledger WHERE sequence = 2"))
    engine.dispose()
    assert house.ledger.verify() == ()  # the chain alone cannot know
    assert {problem.kind for problem in house.promotions().verify()} == {"missing", "alias"}


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_whatever_happens_ledger_and_alias_agree_in_the_end(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    memory = MemoryVersions()
    house = House(memory, f"sqlite:///{tmp_path_factory.mktemp('any') / 'ledger.db'}", memory.register)
    house.register()
    for _ in range(data.draw(st.integers(1, 8))):
        writes = data.draw(st.none() | st.integers(0, 5))
        versions = [version.version for version in memory.versions()]
        version = data.draw(st.sampled_from(versions)) if versions else "1"
        act = data.draw(st.sampled_from(["register", "promote", "refuse", "rollback", "point", "unpoint", "delete"]))
        with suppress(Killed, PromotionError, ModelNotFound):
            if act == "register":
                house.register()
            elif act == "promote":
                house.promotions(writes).promote(version, PASSED, judged_against=house.promotions().champion())
            elif act == "refuse":
                house.promotions(writes).refuse(version, REFUSED)
            elif act == "rollback":
                house.promotions(writes).rollback()
            elif act == "point":
                memory.point(Alias.CHAMPION, version)
            elif act == "unpoint":
                memory.unpoint(Alias.CHAMPION)
            elif len(versions) > 1:
                memory.delete(version)
    house.promotions().reconcile()
    assert house.promotions().verify() == ()
    entry = house.ledger.champion("scene-recogniser")
    assert (entry.version if entry else None) == memory.alias(Alias.CHAMPION)
    for version in memory.versions():
        assert house.promotions().explain(version.version)
