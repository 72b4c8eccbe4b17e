"""Frozen holdouts: who is held out of a cohort is decided once, kept beside the ledger, and named by a digest.

A holdout that is drawn anew from each version of the lake compares nothing: the candidate of today and the champion of last month
would have been asked other questions, and a person who was trained on yesterday could decide today. So:

1. The first retraining of a cohort draws its holdout and *freezes* it here: the people, their windows, and what those were labelled.
   Of two that draw at once one wins, and both use it.
2. Every later one, at whatever version of the lake, holds out these people and asks these windows. New people are trained on, and
   never enter; new windows of the people held out are neither trained on nor asked.
3. The labels that count are those of the version at hand, so that a correction corrects. How many windows have been labelled
   otherwise, or are gone, is counted against what was frozen; the gate says when that is too many.
4. Each candidate that it decides is a *question*, and is counted once, however often it is asked again. The count belongs to the
   people: a holdout that is renewed with the same people goes on counting.
5. A person can *retire* a holdout, saying why, and whether other people are to be held out next, which can be changed until the next
   retraining freezes another. None is ever deleted.

The name is a digest of all that was frozen, so what was changed in the database shows (:meth:`Holdouts.verify`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import sqlalchemy as sql

from registry.chain import Problem
from registry.database import Database
from registry.errors import HoldoutMissing

_METADATA = sql.MetaData()
_HOLDOUTS = sql.Table(
    "sensorloop_holdouts",
    _METADATA,
    sql.Column("cohort", sql.String(200), primary_key=True),
    sql.Column("number", sql.Integer, primary_key=True, autoincrement=False),
    sql.Column("name", sql.String(16), nullable=False),
    sql.Column("subjects", sql.Text, nullable=False),
    sql.Column("labels", sql.Text, nullable=False),
    sql.Column("lake_version", sql.String(100), nullable=False),
    sql.Column("at", sql.String(40), nullable=False),
    sql.Column("who", sql.String(200), nullable=False),
)
_RETIRED = sql.Table(
    "sensorloop_holdouts_retired",
    _METADATA,
    sql.Column("cohort", sql.String(200), primary_key=True),
    sql.Column("number", sql.Integer, primary_key=True, autoincrement=False),
    sql.Column("redraw", sql.Boolean, nullable=False),
    sql.Column("why", sql.Text, nullable=False),
    sql.Column("at", sql.String(40), nullable=False),
    sql.Column("who", sql.String(200), nullable=False),
)
_QUESTIONS = sql.Table(
    "sensorloop_holdout_questions",
    _METADATA,
    sql.Column("people", sql.String(16), primary_key=True),
    sql.Column("number", sql.Integer, primary_key=True, autoincrement=False),
    sql.Column("question", sql.String(500), nullable=False),
    sql.Column("holdout", sql.String(16), nullable=False),
    sql.Column("at", sql.String(40), nullable=False),
    sql.UniqueConstraint("people", "question"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Frozen:
    """A holdout as it was frozen."""

    cohort: str
    subjects: tuple[str, ...]
    """Who is held out, sorted."""
    labels: Mapping[str, str]
    """Window id → its scene when the holdout was frozen."""
    lake_version: str
    """At which version of the lake that was."""
    number: int = 0
    """Counts a cohort's holdouts from 1; 0 before it is kept."""
    at: str = ""
    """When, ISO 8601 in UTC."""
    who: str = ""
    """Person or process that froze it."""
    retired: str | None = None
    """Why it is no longer used; None while it is."""
    redraw: bool = False
    """Retired, so that other people are held out next."""

    @property
    def name(self) -> str:
        """16 hex digits of cohort, people, windows and labels."""
        return _digest([self.cohort, list(self.subjects), sorted(self.labels.items())])

    @property
    def people(self) -> str:
        """16 hex digits of cohort and people: what questions are counted for."""
        return _digest([self.cohort, list(self.subjects)])

    def changes(self, labels: Mapping[str, str]) -> tuple[int, int]:
        """How many of its windows are labelled otherwise, and how many are gone.

        Args:
            labels: window id → scene of the windows of now; others than the holdout's are passed over.
        """
        gone = sum(window not in labels for window in self.labels)
        return sum(labels.get(window, scene) != scene for window, scene in self.labels.items()), gone


class Holdouts:
    """The holdouts of all cohorts.

    Args:
        url: SQLAlchemy URL of the ledger's database.
        clock: the time now, with time zone.
        who: person or process that is named as having frozen or retired one.

    Raises:
        LedgerError: the URL is of another kind of database. So do all methods, if it does not answer.
    """

    def __init__(self, url: str, *, clock: Callable[[], datetime], who: str) -> None:
        self._database = Database(url, "Holdouts")
        self._clock = clock
        self._who = who

    def all(self, cohort: str | None = None) -> tuple[Frozen, ...]:
        """Every holdout, of one cohort or of all, by cohort and number."""
        query = sql.select(_HOLDOUTS).order_by(_HOLDOUTS.c.cohort, _HOLDOUTS.c.number)
        found = self._database.rows(_HOLDOUTS, query if cohort is None else query.where(_HOLDOUTS.c.cohort == cohort))
        retired = {(row["cohort"], row["number"]): row for row in self._database.rows(_RETIRED, sql.select(_RETIRED))}
        return tuple(_frozen(row, retired.get((row["cohort"], row["number"]))) for row in found)

    def latest(self, cohort: str) -> Frozen | None:
        """The newest holdout of a cohort, retired or not; None before the first."""
        return next(reversed(self.all(cohort)), None)

    def current(self, cohort: str) -> Frozen | None:
        """The holdout that a cohort's retraining uses; None if it has to freeze one."""
        latest = self.latest(cohort)
        return None if latest is None or latest.retired is not None else latest

    def named(self, cohort: str, name: str) -> Frozen:
        """A holdout by its name, retired or not.

        Raises:
            HoldoutMissing: there is none.
        """
        for found in self.all(cohort):
            if found.name == name:
                return found
        msg = f"{self._database}: cohort {cohort} has no holdout {name}; 'sensorloop registry holdouts' lists those that there are"
        raise HoldoutMissing(msg)

    def freeze(self, holdout: Frozen) -> Frozen:
        """Keep a holdout, unless the cohort has one; what is returned is the one to use, perhaps somebody else's."""
        latest = self.latest(holdout.cohort)
        if latest is not None and latest.retired is None:
            return latest
        number = latest.number + 1 if latest else 1
        kept = replace(holdout, number=number, at=self._now(), who=self._who)
        row = {
            "cohort": kept.cohort, "number": number, "name": kept.name, "subjects": json.dumps(kept.subjects),
            "labels": json.dumps(dict(kept.labels), sort_keys=True), "lake_version": kept.lake_version, "at": kept.at,
            "who": kept.who,
        }  # fmt: skip
        try:
            with self._database.writing("freeze a holdout", _HOLDOUTS) as connection:
                connection.execute(sql.insert(_HOLDOUTS).values(row))
        except sql.exc.IntegrityError:
            return self.freeze(holdout)  # somebody was faster: theirs is the one
        return kept

    def retire(self, cohort: str, *, why: str, redraw: bool) -> Frozen:
        """Let the next retraining freeze another holdout. Repeatable; until it has, another ``redraw`` takes the place of the last one.

        Args:
            cohort: whose.
            why: a reason, for whoever compares with what was before; empty leaves an earlier one.
            redraw: hold out other people next; otherwise the same, with the windows and labels that they have by then.

        Raises:
            HoldoutMissing: there is none yet.
        """
        latest = self.latest(cohort)
        if latest is None:
            msg = f"{self._database}: cohort {cohort} has no holdout yet: 'sensorloop rescore --cohort {cohort}' freezes one"
            raise HoldoutMissing(msg)
        if latest.retired is not None and latest.redraw == redraw:
            return latest
        row = {
            "cohort": cohort, "number": latest.number, "redraw": redraw,
            "why": why.strip() or latest.retired or "No reason was given.", "at": self._now(), "who": self._who,
        }  # fmt: skip
        change: sql.Insert | sql.Update = sql.insert(_RETIRED)
        if latest.retired is not None:
            # Not once the next one is frozen: how that was drawn stands.
            newer = sql.exists().where(_HOLDOUTS.c.cohort == cohort, _HOLDOUTS.c.number > latest.number)
            this = (_RETIRED.c.cohort == cohort, _RETIRED.c.number == latest.number)
            change = sql.update(_RETIRED).where(*this, ~newer)
        try:
            with self._database.writing("retire a holdout", _RETIRED) as connection:
                done = connection.execute(change.values(row)).rowcount
        except sql.exc.IntegrityError:
            done = 0
        if not done:
            return self.retire(cohort, why=why, redraw=redraw)  # somebody was faster
        return replace(latest, retired=str(row["why"]), redraw=redraw)

    def ask(self, holdout: Frozen, question: str) -> int:
        """Count a question, once: the number it has, from 1.

        Args:
            holdout: that is asked.
            question: what names the candidate; the same is the same question.
        """
        asked = self._questions(holdout)
        if question in asked:
            return asked[question]
        number = max(asked.values(), default=0) + 1
        row = {
            "people": holdout.people, "number": number, "question": question, "holdout": holdout.name, "at": self._now(),
        }  # fmt: skip
        try:
            with self._database.writing("count a question", _QUESTIONS) as connection:
                connection.execute(sql.insert(_QUESTIONS).values(row))
        except sql.exc.IntegrityError:
            return self.ask(holdout, question)  # somebody asked at the same time, and has that number
        return number

    def asked(self, holdout: Frozen) -> int:
        """How many questions its people have decided."""
        return max(self._questions(holdout).values(), default=0)

    def verify(self) -> tuple[Problem, ...]:
        """Every holdout that is no longer what was frozen, and every gap in the count of questions."""
        problems = []
        for row in self._database.rows(_HOLDOUTS, sql.select(_HOLDOUTS)):
            found = _frozen(row, None)
            if found.name != row["name"]:
                text = f"Holdout {row['name']} of cohort {found.cohort} was changed: its name is of other people, windows or labels."
                problems.append(Problem(sequence=found.number, kind="changed", text=text))
        numbers: dict[str, list[int]] = {}
        for row in self._database.rows(_QUESTIONS, sql.select(_QUESTIONS).order_by(_QUESTIONS.c.number)):
            numbers.setdefault(str(row["people"]), []).append(int(row["number"]))
        for people, found_numbers in numbers.items():
            if found_numbers != list(range(1, len(found_numbers) + 1)):
                text = f"Of the questions that the people {people} decided, some were removed: {_listed(found_numbers)} are left."
                problems.append(Problem(sequence=found_numbers[-1], kind="removed", text=text))
        return tuple(problems)

    def _questions(self, holdout: Frozen) -> dict[str, int]:
        query = sql.select(_QUESTIONS).where(_QUESTIONS.c.people == holdout.people)
        return {str(row["question"]): int(row["number"]) for row in self._database.rows(_QUESTIONS, query)}

    def _now(self) -> str:
        return self._clock().astimezone(UTC).isoformat(timespec="seconds")


def _frozen(row: sql.RowMapping, retired: sql.RowMapping | None) -> Frozen:
    return Frozen(
        cohort=row["cohort"], subjects=tuple(json.loads(row["subjects"])), labels=json.loads(row["labels"]),
        lake_version=row["lake_version"], number=row["number"], at=row["at"], who=row["who"],
        retired=retired["why"] if retired else None, redraw=bool(retired and retired["redraw"]),
    )  # fmt: skip


def _digest(content: Sequence[object]) -> str:
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return hashlib.blake2b(text.encode("utf-8"), digest_size=8).hexdigest()


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:10])) + (" …" if len(numbers) > 10 else "")
