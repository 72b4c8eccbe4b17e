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
from pathlib import Path

import sqlalchemy as sql

from registry.errors import LedgerError

_ADVISORY_KEY = 0x5E_50_12_10_09
"""Any number that no other program takes in the same database."""


@contextmanager
def database_lock(engine: sql.Engine) -> Iterator[Callable[[], bool]]:
    """Gives a function that tries to take the lock and says whether it has it; leaving the block gives it back.

    Raises:
        LedgerError: the lock file beside a SQLite database cannot be written.
        sqlalchemy.exc.SQLAlchemyError: PostgreSQL does not answer.
    """
    keep = _flock if engine.dialect.name == "sqlite" else _advisory
    with keep(engine) as try_lock:
        yield try_lock


@contextmanager
def _flock(engine: sql.Engine) -> Iterator[Callable[[], bool]]:
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
        yield try_lock
    finally:
        os.close(descriptor)


@contextmanager
def _advisory(engine: sql.Engine) -> Iterator[Callable[[], bool]]:
    # AUTOCOMMIT: a transaction left open for the length of a promotion would hold back vacuum. Closing the connection, which
    # the engine does not pool, gives the lock back.
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        yield lambda: bool(connection.scalar(sql.select(sql.func.pg_try_advisory_lock(_ADVISORY_KEY))))
