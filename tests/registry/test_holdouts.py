"""Frozen holdouts: decided once, by one; never changed, only retired; every question counted once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sql

from registry.errors import HoldoutMissing
from registry.holdouts import Frozen, Holdouts

LABELS = {"w1": "Walk", "w2": "Bus", "w3": "Walk"}


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'registry.db'}"


@pytest.fixture
def kept(url: str) -> Holdouts:
    return Holdouts(url, clock=lambda: datetime(2026, 3, 1, 12, tzinfo=UTC), who="ana")


def draft(cohort: str = "target", subjects: tuple[str, ...] = ("p1", "p2"), **labels: str) -> Frozen:
    return Frozen(cohort=cohort, subjects=subjects, labels={**LABELS, **labels}, lake_version="17")


def at_once(*calls: Callable[[], object]) -> None:
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], object]) -> None:
        barrier.wait()
        call()

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_looking_writes_nothing(kept: Holdouts, tmp_path: Path) -> None:
    assert kept.all() == ()
    assert kept.current("target") is None
    assert kept.asked(draft()) == 0
    assert kept.verify() == ()
    assert list(tmp_path.iterdir()) == []


def test_who_is_held_out_is_decided_once(kept: Holdouts) -> None:
    first = kept.freeze(draft())
    assert (first.number, first.who, first.at, first.name) == (1, "ana", "2026-03-01T12:00:00+00:00", draft().name)
    assert kept.freeze(draft(subjects=("p3",))) == first
    assert kept.current("target") == first == kept.named("target", first.name)
    other = kept.freeze(draft("city"))
    assert other.name != first.name, "of another cohort it is another holdout"
    assert kept.all() == (other, first)


def test_of_several_at_once_one_is_everybodys(url: str) -> None:
    found: list[Frozen] = []

    def freeze(number: int) -> None:
        mine = Holdouts(url, clock=lambda: datetime.now(UTC), who=f"p{number}")
        found.append(mine.freeze(draft(subjects=(f"p{number}",))))

    at_once(*(lambda number=number: freeze(number) for number in range(6)))  # type: ignore[misc]
    assert len({each.name for each in found}) == 1
    assert len(Holdouts(url, clock=lambda: datetime.now(UTC), who="eve").all()) == 1


def test_the_name_is_of_people_windows_and_labels_in_any_order() -> None:
    assert (
        draft().name
        == Frozen(cohort="target", subjects=("p1", "p2"), labels=dict(reversed(LABELS.items())), lake_version="18").name
    )
    assert len({draft().name, draft(subjects=("p1",)).name, draft(w1="Bus").name, draft(w4="Bus").name}) == 4


def test_what_has_changed_since_is_counted() -> None:
    frozen = draft()
    assert frozen.changes(LABELS) == (0, 0)
    assert frozen.changes({**LABELS, "w9": "Bus"}) == (0, 0), "a new window is not the holdout's"
    assert frozen.changes({"w1": "Bus", "w2": "Bus"}) == (1, 1)
    assert frozen.changes({}) == (0, 3)


def test_a_candidate_is_counted_once_however_often_it_is_asked(kept: Holdouts) -> None:
    frozen = kept.freeze(draft())
    assert [kept.ask(frozen, key) for key in ("k1", "k2", "k1", "k3", "k2")] == [1, 2, 1, 3, 2]
    assert kept.asked(frozen) == 3
    assert kept.ask(kept.freeze(draft("city")), "k1") == 1, "another holdout counts for itself"


def test_questions_at_once_have_numbers_of_their_own(url: str, kept: Holdouts) -> None:
    frozen, numbers = kept.freeze(draft()), []

    def ask(key: str) -> None:
        numbers.append(Holdouts(url, clock=lambda: datetime.now(UTC), who="ana").ask(frozen, key))

    at_once(*(lambda at=at: ask(f"k{at}") for at in range(6)))  # type: ignore[misc]
    assert sorted(numbers) == [1, 2, 3, 4, 5, 6]
    assert kept.verify() == ()


def test_a_holdout_is_renewed_by_a_person_and_with_the_same_people_goes_on_counting(kept: Holdouts) -> None:
    first = kept.freeze(draft())
    kept.ask(first, "k1")
    gone = kept.retire("target", why="Half of the buses were trains.", redraw=False)
    assert (gone.name, gone.retired) == (first.name, "Half of the buses were trains.")
    assert kept.retire("target", why="Again.", redraw=False) == gone, "it is retired once"
    assert kept.current("target") is None
    assert kept.named("target", first.name).retired, "it is kept"
    second = kept.freeze(draft(w2="Train"))
    assert (second.number, second.name != first.name) == (2, True)
    assert kept.ask(second, "k2") == 2
    kept.retire("target", why="", redraw=True)
    third = kept.freeze(draft(subjects=("p8", "p9")))
    assert kept.ask(third, "k3") == 1
    assert [each.retired for each in kept.all("target")] == [gone.retired, "No reason was given.", None]


def test_until_another_is_frozen_it_can_be_thought_better_of_whom_to_hold_out(kept: Holdouts) -> None:
    kept.freeze(draft())
    kept.retire("target", why="Asked too often.", redraw=True)
    changed = kept.retire("target", why="There is nobody else.", redraw=False)
    assert (changed.retired, changed.redraw) == ("There is nobody else.", False)
    assert kept.latest("target") == changed
    back = kept.retire("target", why="", redraw=True)
    assert (back.retired, back.redraw) == ("There is nobody else.", True), "no reason is no better one"
    assert kept.retire("target", why="", redraw=False) == changed
    second = kept.freeze(draft(w2="Train"))
    kept.retire("target", why="Labels.", redraw=True)
    assert kept.all("target")[0] == changed, "what came of it was frozen"
    assert second.number == 2


def test_whom_to_hold_out_is_not_changed_once_another_is_frozen(url: str, kept: Holdouts) -> None:
    """A retraining freezes the next one while a person changes who that is to be: theirs is retired, not what it was drawn by."""
    kept.freeze(draft())
    old = kept.retire("target", why="Asked too often.", redraw=True)
    drawn = draft(subjects=("p8", "p9"))

    def meanwhile() -> datetime:
        if kept.current("target") is None:
            kept.freeze(drawn)
        return datetime(2026, 3, 2, 12, tzinfo=UTC)

    gone = Holdouts(url, clock=meanwhile, who="ben").retire("target", why="The same again.", redraw=False)
    assert (gone.number, gone.name, gone.redraw) == (2, drawn.name, False)
    assert kept.all("target") == (old, gone)


def test_what_is_not_there(kept: Holdouts) -> None:
    with pytest.raises(HoldoutMissing, match="'sensorloop rescore --cohort target' freezes one"):
        kept.retire("target", why="", redraw=False)
    with pytest.raises(HoldoutMissing, match="cohort target has no holdout 0123"):
        kept.named("target", "0123")


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ('UPDATE sensorloop_holdouts SET labels = \'{"w1": "Bus"}\'', "changed"),
        ("UPDATE sensorloop_holdouts SET subjects = '[\"p1\"]'", "changed"),
        ("DELETE FROM sensorloop_holdout_questions WHERE number = 1", "removed"),
    ],
)
def test_what_was_changed_in_the_database_shows(url: str, kept: Holdouts, statement: str, kind: str) -> None:
    frozen = kept.freeze(draft())
    for key in ("k1", "k2"):
        kept.ask(frozen, key)
    assert kept.verify() == ()
    engine = sql.create_engine(url, poolclass=sql.pool.NullPool)
    with engine.begin() as connection:
        connection.execute(sql.text(statement))
    (problem,) = kept.verify()
    assert problem.kind == kind
    if kind == "removed":
        assert kept.ask(frozen, "k9") == 3, "a number is never given twice"
