"""The account of every promotion: who, when, why, on which verdict, and what served before.

MLflow keeps no history of an alias. The ledger does: a table of entries that only grows, each carrying the hash of the one
before it, in the registry's own database (SQLite on one machine, PostgreSQL in a cluster).

How an entry is added:

1. Whoever promotes holds :meth:`Ledger.exclusive`, so that champions change one at a time. The database (PostgreSQL) or the
   operating system (SQLite) gives the right back when its holder dies.
2. The entry goes under the sequence number after the newest one that was read. The number is the primary key: if somebody
   without the lock was faster, the insert fails, the chain stays one line, and :class:`~registry.errors.LedgerMoved` says so.
3. An entry that moves the champion is *settled* when the alias has followed, which is noted in a second table. At most the
   newest such entry is unsettled, and only while a promotion is under way or after one was killed.

The chain shows a changed, removed or inserted entry. It cannot show that its end was cut off, nor that all of it was computed
anew; for that, every promoted version in MLflow is tagged with its entry's hash (:mod:`registry.promotion` compares them).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta

import sqlalchemy as sql

from registry.chain import FIRST_HASH, Action, Draft, Entry, Problem, check, sealed
from registry.database import Database
from registry.errors import LedgerBroken, LedgerBusy, LedgerMoved
from registry.lock import database_lock

_METADATA = sql.MetaData()
_ENTRIES = sql.Table(
    "sensorloop_ledger",
    _METADATA,
    sql.Column("sequence", sql.BigInteger, primary_key=True, autoincrement=False),
    # Text throughout: what is hashed must come back from any database byte for byte.
    sql.Column("at", sql.String(40), nullable=False),
    sql.Column("who", sql.String(200), nullable=False),
    sql.Column("action", sql.String(20), nullable=False),
    sql.Column("model_name", sql.String(256), nullable=False),
    sql.Column("version", sql.String(32)),
    sql.Column("previous_version", sql.String(32)),
    sql.Column("why", sql.Text, nullable=False),
    sql.Column("verdict", sql.Text),
    sql.Column("lake_version", sql.String(100)),
    sql.Column("run_key", sql.String(200)),
    sql.Column("operation", sql.String(500), nullable=False, unique=True),
    sql.Column("previous_hash", sql.String(64), nullable=False),
    sql.Column("hash", sql.String(64), nullable=False),
)
_SETTLED = sql.Table(
    "sensorloop_ledger_settled",
    _METADATA,
    sql.Column("sequence", sql.BigInteger, primary_key=True, autoincrement=False),
)


class Ledger:
    """A ledger in a database (:class:`~registry.database.Database`).

    Args:
        url: SQLAlchemy URL; SQLite in a file, or PostgreSQL.
        lock_timeout: how long :meth:`exclusive` waits.
        pause: waits for so many seconds between two tries for the lock.

    Raises:
        LedgerError: the URL is of another kind of database.
    """

    def __init__(
        self,
        url: str,
        *,
        lock_timeout: timedelta = timedelta(seconds=60),
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._database = Database(url, "Ledger")
        self._lock_timeout = lock_timeout
        self._pause = pause

    @contextmanager
    def exclusive(self) -> Iterator[Callable[[], bool]]:
        """The right to change champions, one holder at a time, across processes and (with PostgreSQL) machines.

        Gives a function that says whether it is still ours: PostgreSQL takes it away with the connection.

        Raises:
            LedgerBusy: another holder did not give it back within the time-out.
            LedgerError: the database does not answer.
        """
        with self._database.translated("lock"), database_lock(self._database.engine) as lock:
            step, waited, limit = 0.02, 0.0, self._lock_timeout.total_seconds()
            while not lock.take():
                if waited >= limit:
                    msg = (
                        f"{self._database}: another promotion or rollback, or who opens a DAG run's run in MLflow, has not finished "
                        f"for {limit:g} s. Try again, or raise [registry] lock_timeout."
                    )
                    raise LedgerBusy(msg)
                self._pause(step)
                waited += step
                step = min(step * 1.5, 0.5)
            yield lock.held

    def entries(self, model_name: str | None = None) -> tuple[Entry, ...]:
        """Every entry, oldest first; of one model, or of all.

        Raises:
            LedgerError: the database does not answer.
        """
        query = sql.select(_ENTRIES).order_by(_ENTRIES.c.sequence)
        if model_name is not None:
            query = query.where(_ENTRIES.c.model_name == model_name)
        return tuple(_entry(row) for row in self._rows(query))

    def head(self) -> Entry | None:
        """The newest entry of all; None if there is none yet."""
        rows = self._rows(sql.select(_ENTRIES).order_by(_ENTRIES.c.sequence.desc()).limit(1))
        return _entry(rows[0]) if rows else None

    def operation(self, operation: str) -> Entry | None:
        """The entry of an operation, if it has been entered."""
        rows = self._rows(sql.select(_ENTRIES).where(_ENTRIES.c.operation == operation))
        return _entry(rows[0]) if rows else None

    def champion(self, model_name: str) -> Entry | None:
        """The newest entry that says who is champion; None before the first."""
        rows = self._rows(
            sql.select(_ENTRIES)
            .where(_ENTRIES.c.model_name == model_name, _ENTRIES.c.action != Action.REFUSED.value)
            .order_by(_ENTRIES.c.sequence.desc())
            .limit(1)
        )
        return _entry(rows[0]) if rows else None

    def append(self, draft: Draft, *, after: int) -> Entry:
        """Add an entry, if nothing has been added since ``after`` was the newest one.

        Args:
            draft: what is to be entered.
            after: sequence of the newest entry the caller knows; 0 if there was none.

        Returns:
            The sealed entry, or the one already there if the same operation was entered before.

        Raises:
            LedgerMoved: another entry has that place.
            LedgerBroken: the newest entry does not match its own hash.
            LedgerError: the database refuses.
        """
        if (known := self.operation(draft.operation)) is not None:
            return known
        head = self.head()
        if (head.sequence if head else 0) != after:
            raise LedgerMoved(self._moved(after))
        if head is not None and head.computed_hash() != head.hash:
            msg = f"{self._database}: entry {head.sequence} is not what was written; run 'sensorloop registry verify'"
            raise LedgerBroken(msg)
        entry = sealed(draft, sequence=after + 1, previous_hash=head.hash if head else FIRST_HASH)
        try:
            with self._database.writing("append", _ENTRIES, _SETTLED) as connection:
                connection.execute(sql.insert(_ENTRIES).values(asdict(entry)))
        except sql.exc.IntegrityError as error:
            raise LedgerMoved(self._moved(after)) from error
        return entry

    def settle(self, entry: Entry) -> None:
        """Note that the alias has followed this entry. Repeatable."""
        try:
            with self._database.writing("settle", _SETTLED) as connection:
                connection.execute(sql.insert(_SETTLED).values(sequence=entry.sequence))
        except sql.exc.IntegrityError:
            return  # settled before

    def is_settled(self, entry: Entry) -> bool:
        """Whether the alias is known to have followed this entry."""
        return bool(self._rows(sql.select(_SETTLED).where(_SETTLED.c.sequence == entry.sequence)))

    def verify(self) -> tuple[Problem, ...]:
        """Every place where the chain does not hold; empty if it does."""
        return tuple(check(self.entries()))

    def _moved(self, after: int) -> str:
        return f"{self._database}: somebody else has written entry {after + 1} in the meantime; look again and retry"

    def _rows(self, query: sql.Select[tuple[object, ...]]) -> list[sql.RowMapping]:
        return self._database.rows(_ENTRIES, query)


def _entry(row: sql.RowMapping) -> Entry:
    return Entry(**row)
