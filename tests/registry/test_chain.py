"""The hash chain: whatever is done to its entries, ``check`` says so and says where."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.chain import FIRST_HASH, Action, Draft, Entry, check, lineage, sealed

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def draft(number: int, **changes: object) -> Draft:
    whole = Draft(
        at=NOON + timedelta(minutes=number),
        who="ana",
        action=Action.PROMOTE,
        model_name="scene-recogniser",
        version=str(number),
        previous_version=str(number - 1),
        why="It passed. Größer als je zuvor – 0.93",
        operation=f"promote:{number}",
        lake_version="17",
        run_key="abc",
    )
    return replace(whole, **changes)  # type: ignore[arg-type]  # a test's keyword arguments


def chain(length: int) -> list[Entry]:
    entries: list[Entry] = []
    for number in range(1, length + 1):
        before = entries[-1].hash if entries else FIRST_HASH
        entries.append(sealed(draft(number), sequence=number, previous_hash=before))
    return entries


def test_an_untouched_chain_has_no_problem() -> None:
    assert list(check(chain(5))) == []
    assert list(check([])) == []


def test_the_time_is_kept_in_utc_and_needs_a_zone() -> None:
    east = datetime(2026, 3, 1, 14, tzinfo=timezone(timedelta(hours=2)))
    assert sealed(draft(1, at=east), sequence=1, previous_hash=FIRST_HASH).at == "2026-03-01T12:00:00.000000+00:00"
    with pytest.raises(ValueError, match="no time zone"):
        sealed(draft(1, at=datetime(2026, 3, 1)), sequence=1, previous_hash=FIRST_HASH)  # noqa: DTZ001  # what is tested


@pytest.mark.parametrize("field", [field.name for field in fields(Entry) if field.name not in {"sequence", "hash"}])
def test_any_changed_field_is_found(field: str) -> None:
    entries = chain(3)
    entries[1] = replace(entries[1], **{field: "something else"})
    found = list(check(entries))
    assert ("changed", 2) in {(problem.kind, problem.sequence) for problem in found}


def test_a_change_with_its_hash_computed_anew_breaks_the_next_link() -> None:
    entries = chain(3)
    forged = replace(entries[1], why="a better reason")
    entries[1] = replace(forged, hash=forged.computed_hash())
    assert [(problem.kind, problem.sequence) for problem in check(entries)] == [("inserted", 3)]


@given(st.integers(2, 8), st.data())
def test_a_removed_entry_is_found(length: int, data: st.DataObject) -> None:
    entries = chain(length)
    gone = data.draw(st.integers(0, length - 2))
    del entries[gone]
    found = list(check(entries))
    assert [(problem.kind, problem.sequence) for problem in found] == [("removed", gone + 1)]
    assert f"Entry {gone + 1} is missing" in found[0].text


@given(st.integers(2, 8), st.data())
def test_a_removed_entry_is_found_even_if_the_rest_is_renumbered(length: int, data: st.DataObject) -> None:
    entries = chain(length)
    gone = data.draw(st.integers(0, length - 2))
    del entries[gone]
    renumbered = [replace(entry, sequence=number) for number, entry in enumerate(entries, start=1)]
    assert {problem.sequence for problem in check(renumbered)} >= {gone + 1}


@given(st.integers(1, 8), st.data())
def test_an_inserted_entry_is_found(length: int, data: st.DataObject) -> None:
    entries = chain(length)
    place = data.draw(st.integers(0, length - 1))
    before = entries[place - 1].hash if place else FIRST_HASH
    forged = sealed(draft(99), sequence=place + 1, previous_hash=before)
    later = []
    for entry in entries[
        place:
    ]:  # the forger renumbers what follows and even seals it again, but not to the forged one
        moved = replace(entry, sequence=entry.sequence + 1)
        later.append(replace(moved, hash=moved.computed_hash()))
    assert list(check([*entries[:place], forged, *later]))


def test_a_number_below_one_was_inserted() -> None:
    entries = [sealed(draft(0), sequence=0, previous_hash=FIRST_HASH), *chain(2)]
    assert [(problem.kind, problem.sequence) for problem in check(entries)] == [("inserted", 0)]


@pytest.mark.parametrize(
    ("moves", "line"),
    [
        ("", []),
        ("p1 p2 p3", ["1", "2", "3"]),
        ("p1 p2 x9 p2", ["1", "2"]),  # refusals and repetitions leave it as it is
        ("p1 p2 p3 r2", ["1", "2"]),
        ("p1 p2 p3 r2 r1", ["1"]),
        ("p1 p2 p3 r2 p4", ["1", "2", "4"]),
        ("p1 p2 p3 r2 p4 r2", ["1", "2"]),
        ("p1 p2 p3 r2 r3", ["1", "2", "3"]),  # forward again
        ("p1 p2 p3 r1 r3", ["1", "2", "3"]),
        ("p1 p2 p3 r1 r2", ["1", "2"]),
        ("p1 p2 p3 r1 p4 r3", ["1", "3"]),  # no longer forward: another champion came between
        ("p2 r1", ["1"]),  # nothing before: the original model, in its place
        ("p1 p2 m5", ["1", "2", "5"]),
        ("p1 p2 p3 m2", ["1", "2"]),  # going back by hand is going back
        ("p1 p2 m- p3", ["1", "2", None, "3"]),
        ("p1 p2 m- r2", ["1", "2"]),
        ("p1 m- p2 m-", ["1", None, "2", None]),
        ("p1 p2 p1", ["1", "2", "1"]),  # judged again and better than what came after
        ("p1 p2 p1 r2", ["1", "2"]),
    ],
)
def test_the_line_one_can_go_back_through(moves: str, line: list[str | None]) -> None:
    actions = {"p": Action.PROMOTE, "r": Action.ROLLBACK, "m": Action.MANUAL, "x": Action.REFUSED}
    entries = [
        sealed(
            draft(number, action=actions[move[0]], version=None if move[1:] == "-" else move[1:]),
            sequence=number,
            previous_hash=FIRST_HASH,
        )
        for number, move in enumerate(moves.split(), start=1)
    ]
    assert list(lineage(entries)) == line
