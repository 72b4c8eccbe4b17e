"""The ledger in a real database: two at once, the same twice, tampering, and a lock that death gives back."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sql

from registry.chain import Action, Draft, Entry
from registry.errors import LedgerBroken, LedgerBusy, LedgerError, LedgerMoved, LedgerUnavailable
from registry.holdouts import Holdouts
from registry.ledger import Ledger
from registry.notices import _FROM, Notices
from registry.webhook import Attempt
from tests.fixtures.postgres import Postgres
from tests.registry.servers import free_port

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def draft(version: str, *, model: str = "m", action: Action = Action.PROMOTE, operation: str = "") -> Draft:
    return Draft(
        at=NOON,
        who="ana",
        action=action,
        model_name=model,
        version=version,
        previous_version=None,
        why="It passed.",
        operation=operation or f"{action}:{model}:{version}",
    )


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """SQLite, or the empty PostgreSQL database named by SENSORLOOP_TEST_LEDGER_URL, whose ledger is dropped afterwards."""
    elsewhere = os.environ.get("SENSORLOOP_TEST_LEDGER_URL")
    yield elsewhere or f"sqlite:///{tmp_path / 'mlflow.db'}"
    if elsewhere:
        engine = sql.create_engine(elsewhere)
        with engine.begin() as connection:
            connection.execute(sql.text("DROP TABLE IF EXISTS sensorloop_ledger, sensorloop_ledger_settled"))
        engine.dispose()


@pytest.fixture
def ledger(url: str) -> Ledger:
    return Ledger(url)


@pytest.fixture
def tamper(url: str) -> Callable[[str], None]:
    def execute(statement: str) -> None:
        engine = sql.create_engine(url)
        with engine.begin() as connection:
            connection.execute(sql.text(statement))
        engine.dispose()

    return execute


def fill(ledger: Ledger, count: int) -> None:
    for number in range(count):
        ledger.append(draft(str(number + 1)), after=number)


def test_reading_an_empty_ledger_writes_nothing(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert ledger.entries() == ()
    assert ledger.head() is None
    assert ledger.champion("m") is None
    assert ledger.verify() == ()
    assert list(tmp_path.iterdir()) == []


def test_entries_come_back_as_written(ledger: Ledger) -> None:
    written = ledger.append(replace(draft("3"), verdict='{"ü": "–"}', why="zwei\nZeilen"), after=0)
    assert ledger.entries() == (written,)
    assert written.computed_hash() == written.hash
    assert Ledger(ledger._database._url.render_as_string(hide_password=False)).entries("m") == (written,)
    assert ledger.entries("another") == ()


def test_only_the_place_after_the_newest_is_free(ledger: Ledger) -> None:
    fill(ledger, 2)
    for after in (0, 1, 3):
        with pytest.raises(LedgerMoved):
            ledger.append(draft("9"), after=after)
    assert ledger.append(draft("9"), after=2).sequence == 3
    assert ledger.verify() == ()


def test_the_same_operation_is_one_entry(ledger: Ledger) -> None:
    first = ledger.append(draft("1"), after=0)
    fill(ledger, 3)
    assert ledger.append(draft("1"), after=3) == first
    assert ledger.append(draft("1"), after=0) == first
    assert len(ledger.entries()) == 3


def test_a_refusal_moves_no_champion(ledger: Ledger) -> None:
    ledger.append(draft("1"), after=0)
    ledger.append(draft("2", action=Action.REFUSED), after=1)
    ledger.append(draft("8", model="other"), after=2)
    champion = ledger.champion("m")
    assert champion is not None
    assert champion.version == "1"


def test_settling_is_remembered_and_repeatable(ledger: Ledger) -> None:
    entry = ledger.append(draft("1"), after=0)
    assert not ledger.is_settled(entry)
    ledger.settle(entry)
    ledger.settle(entry)
    assert ledger.is_settled(entry)


def test_writers_without_the_lock_still_make_one_line(url: str) -> None:
    """Eight at once: every place is taken once, and who lost it was told."""
    outcomes: list[str] = []
    barrier = threading.Barrier(8)

    def write(name: str) -> None:
        ledger = Ledger(url)
        barrier.wait()
        written = 0
        while written < 3:
            head = ledger.head()
            try:
                ledger.append(draft(f"{name}{written}"), after=head.sequence if head else 0)
            except LedgerMoved:
                outcomes.append("moved")
            else:
                written += 1

    threads = [threading.Thread(target=write, args=(name,)) for name in "abcdefgh"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ledger = Ledger(url)
    assert [entry.sequence for entry in ledger.entries()] == list(range(1, 25))
    assert len({entry.version for entry in ledger.entries()}) == 24
    assert ledger.verify() == ()


@pytest.mark.parametrize(
    ("statement", "kind", "sequence"),
    [
        ("UPDATE sensorloop_ledger SET who = 'eve' WHERE sequence = 2", "changed", 2),
        ("UPDATE sensorloop_ledger SET verdict = '{}' WHERE sequence = 4", "changed", 4),
        ("UPDATE sensorloop_ledger SET action = 'invented' WHERE sequence = 3", "changed", 3),
        ("DELETE FROM sensorloop_ledger WHERE sequence = 3", "removed", 3),
        (
            (
                "INSERT INTO sensorloop_ledger SELECT 0, at, who, action, model_name, version, previous_version, why, "
                "verdict, lake_version, run_key, 'forged', previous_hash, hash FROM sensorloop_ledger LIMIT 1"
            ),
            "inserted",
            0,
        ),
    ],
)
def test_tampering_is_found(
    ledger: Ledger, tamper: Callable[[str], None], statement: str, kind: str, sequence: int
) -> None:
    fill(ledger, 5)
    tamper(statement)
    assert (kind, sequence) in {(problem.kind, problem.sequence) for problem in ledger.verify()}


def test_nothing_is_added_to_a_broken_end(ledger: Ledger, tamper: Callable[[str], None]) -> None:
    fill(ledger, 2)
    tamper("UPDATE sensorloop_ledger SET why = 'because' WHERE sequence = 2")
    with pytest.raises(LedgerBroken, match="entry 2"):
        ledger.append(draft("9"), after=2)


def test_the_lock_has_one_holder(url: str) -> None:
    pauses: list[float] = []
    waiting = Ledger(url, lock_timeout=timedelta(seconds=1), pause=pauses.append)
    with Ledger(url).exclusive(), pytest.raises(LedgerBusy, match="lock_timeout"), waiting.exclusive():
        pass
    assert sum(pauses) >= 1
    with waiting.exclusive():
        pass


_HOLDER = """
import sys
from registry.ledger import Ledger
with Ledger(sys.argv[1]).exclusive():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_killed_holder_gives_the_lock_back(url: str) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout
    assert holder.stdout.readline() == "held\n"
    impatient = Ledger(url, lock_timeout=timedelta(0))
    with pytest.raises(LedgerBusy), impatient.exclusive():
        pass
    holder.kill()
    holder.communicate()
    with Ledger(url, lock_timeout=timedelta(seconds=20)).exclusive():
        pass


@pytest.mark.parametrize("url", ["", "no url", "sqlite://", "sqlite:///:memory:", "mysql+pymysql://u:p@h/d"])
def test_a_database_that_cannot_keep_a_ledger_is_refused(url: str) -> None:
    with pytest.raises(LedgerError, match="ledger_url"):
        Ledger(url)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path}/nowhere/mlflow.db")
    with pytest.raises(LedgerError, match="nowhere"), ledger.exclusive():
        pass


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"not a database" * 100)
    with pytest.raises(LedgerError, match=r"mlflow\.db.*cannot read"):
        Ledger(f"sqlite:///{tmp_path / 'mlflow.db'}").entries()


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)  # as if it were not installed
    with pytest.raises(LedgerError, match=r"postgresql\+psycopg://ana:\*\*\*@host/db: install its driver"):
        Ledger("postgresql+psycopg://ana:secret@host/db")


def test_a_database_that_is_away_may_come_back(tmp_path: Path) -> None:
    """A restart of PostgreSQL fails no task for good; a file that is no database does."""
    away = f"postgresql+psycopg://ana:secret@127.0.0.1:{free_port()}/db"
    holdouts = Holdouts(away, clock=lambda: NOON, who="ana")
    for ask in (
        Ledger(away).head,
        lambda: holdouts.current("target"),
        lambda: Ledger(away).append(draft("1"), after=0),
    ):
        with pytest.raises(LedgerUnavailable, match=r"ana:\*\*\*@127.*later.*\[registry\] ledger_url") as error:
            ask()
        assert error.value.retriable
    with pytest.raises(LedgerUnavailable), Ledger(away).exclusive():
        pass
    (tmp_path / "mlflow.db").write_bytes(b"not a database" * 100)
    with pytest.raises(LedgerError) as error:
        Ledger(f"sqlite:///{tmp_path / 'mlflow.db'}").entries()
    assert not error.value.retriable


def test_a_locked_file_may_be_free_later(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path / 'mlflow.db'}")
    fill(ledger, 1)
    impatient = Ledger(ledger._database._url.render_as_string())
    impatient._database.engine = sql.create_engine(
        ledger._database._url, connect_args={"timeout": 0.0}, poolclass=sql.pool.NullPool
    )
    with sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(LedgerUnavailable, match="database is locked"):
            impatient.head()
    other.close()


def test_a_connection_that_is_dropped_may_be_made_again(postgres: Postgres) -> None:
    """As PostgreSQL does when it is restarted: whoever asks at that moment is told, and asks again."""
    ledger = Ledger(postgres.database("dropped"))
    fill(ledger, 1)

    def ask_twice() -> None:
        with ledger._database.translated("read"), ledger._database.engine.connect() as used:
            used.execute(sql.text("SELECT 1"))
            postgres.drop_connections("dropped")
            used.execute(sql.text("SELECT 1"))

    with pytest.raises(LedgerUnavailable):
        ask_twice()
    assert len(ledger.entries()) == 1


def test_who_holds_the_lock_knows_when_it_is_gone(postgres: Postgres, ledger: Ledger) -> None:
    """It belongs to a connection: one that was dropped is made anew in silence, without it."""
    there = Ledger(postgres.database("held"), lock_timeout=timedelta(0))
    with there.exclusive() as held:
        assert held()
        with pytest.raises(LedgerBusy), there.exclusive():
            pass
        postgres.drop_connections("held")
        with there.exclusive() as others:
            assert others()
            assert not held()
            assert not held(), "nor once it has another connection"
    with ledger.exclusive() as held:
        assert held(), "that of a file goes with its holder only"


def test_a_table_that_two_make_at_once_is_made_and_both_go_on(postgres: Postgres) -> None:
    """The first announcements of two cohorts: who came second was told 'exists already', and took it for its own row."""
    url = postgres.database("twice")
    notices = [
        Notices(url, Ledger(url), name, sender=_Nobody(), clock=lambda: NOON)
        for name in ("scene-recogniser", "scene-recogniser.town")
    ]
    engine = sql.create_engine(url, poolclass=sql.pool.NullPool)
    second = threading.Thread(target=notices[1].begin)
    with engine.begin() as first:
        first.execute(sql.schema.CreateTable(_FROM))
        second.start()
        while not postgres.execute(
            "SELECT 1 FROM pg_stat_activity WHERE datname = %s AND wait_event_type = 'Lock'", "twice"
        ):
            assert second.is_alive()
    second.join()
    notices[0].begin()
    assert [each._after() for each in notices] == [0, 0]


class _Nobody:
    """Hears of no entry."""

    def send(self, entry: Entry) -> Attempt:
        raise AssertionError(entry)
