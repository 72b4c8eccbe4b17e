"""A lock that its holder's death releases, kept by whoever keeps the ledger's database.

PostgreSQL: an advisory lock, which belongs to the connection. SQLite: ``flock`` on a file beside the database, which belongs to
the open file; SQLite is for one machine anyway. (SQLite's own write lock would not do: MLflow must write to the same database
while we hold ours.)
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sql

from registry.errors import LedgerError

_ADVISORY_KEY = 0x5E_50_12_10_09
"""Any number that no other program takes in the same database."""
_HELD = sql.text(
    "SELECT EXISTS (SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted AND pid = pg_backend_pid() "
    "AND classid = :high AND objid = :low AND objsubid = 1 "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))"
)
"""How PostgreSQL lists an advisory lock of 64 bits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lock:
    """A lock of the database's keeper."""

    take: Callable[[], bool]
    """Try to take it; says whether we have it."""
    held: Callable[[], bool]
    """Whether we still have it, once taken."""


@contextmanager
def database_lock(engine: sql.Engine) -> Iterator[Lock]:
    """The lock, not taken yet; leaving the block gives it back.

    Raises:
        LedgerError: the lock file beside a SQLite database cannot be written.
        sqlalchemy.exc.SQLAlchemyError: PostgreSQL does not answer.
    """
    keep = _flock if engine.dialect.name == "sqlite" else _advisory
    with keep(engine) as lock:
        yield lock


@contextmanager
def _flock(engine: sql.Engine) -> Iterator[Lock]:
    path = Path(f"{engine.url.database}.promotion-lock")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        msg = f"Ledger: cannot open the lock file {path} ({error.strerror}). Check [registry] ledger_url."
        raise LedgerError(msg) from error

    def try_lock() -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    try:
        yield Lock(take=try_lock, held=lambda: True)
    finally:
        os.close(descriptor)


@contextmanager
def _advisory(engine: sql.Engine) -> Iterator[Lock]:
    # AUTOCOMMIT: a transaction left open for the length of a promotion would hold back vacuum. Closing the connection, which
    # the engine does not pool, gives the lock back.
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:

        def held() -> bool:
            # A connection that was lost is made anew in silence, without the lock: hence not only whether it answers.
            try:
                return bool(connection.scalar(_HELD, {"high": _ADVISORY_KEY >> 32, "low": _ADVISORY_KEY & 0xFFFF_FFFF}))
            except sql.exc.SQLAlchemyError:
                return False

        yield Lock(
            take=lambda: bool(connection.scalar(sql.select(sql.func.pg_try_advisory_lock(_ADVISORY_KEY)))), held=held
        )
