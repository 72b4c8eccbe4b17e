"""Promotion and refusal, and what the ledger says of them."""

from __future__ import annotations

from contextlib import suppress

import pytest
import sqlalchemy as sql
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.errors import ChampionMoved, ModelNotFound, PromotionError
from registry.gate import Verdict
from registry.versions import Alias
from tests.fakes.versions import Killed, MemoryVersions
from tests.registry.houses import PASSED, REFUSED, STALE, House, prepared


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
        "Verdict: passed; recovery ratio 0.9412 (at least 0.9235); holdout h1.",
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
    prepared(house, 2)
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
