"""The registry's own database, in which the ledger and the holdouts are kept: SQLite on one machine, PostgreSQL in a cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sql

from registry.errors import LedgerError, LedgerUnavailable

_FINAL_STATES = ("28", "3D")
"""Of PostgreSQL: who we are, and that there is such a database."""


class Database:
    """Tables of ours beside MLflow's. A table is made with its first row, so that looking at one writes nothing.

    Args:
        url: SQLAlchemy URL; SQLite in a file, or PostgreSQL.
        what: is kept there, for messages: ``Ledger``.

    Raises:
        LedgerError: the URL is of another kind of database.
    """

    def __init__(self, url: str, what: str) -> None:
        self._what = what
        try:
            self._url = sql.make_url(url)
        except sql.exc.ArgumentError as error:
            msg = f"[registry] ledger_url = {url!r} is no SQLAlchemy URL"
            raise LedgerError(msg) from error
        dialect = self._url.get_backend_name()
        if dialect not in {"sqlite", "postgresql"} or (
            dialect == "sqlite" and self._url.database in {None, "", ":memory:"}
        ):
            msg = f"[registry] ledger_url = {self._url.render_as_string()}: must be SQLite in a file, or PostgreSQL"
            raise LedgerError(msg)
        # Besides us, MLflow writes to the same SQLite file: wait for its short transactions rather than fail.
        arguments = {"timeout": 30.0} if dialect == "sqlite" else {}
        try:
            self.engine = sql.create_engine(self._url, connect_args=arguments, poolclass=sql.pool.NullPool)
        except ImportError as error:
            msg = f"[registry] ledger_url = {self._url.render_as_string()}: install its driver, the Python package {error.name}"
            raise LedgerError(msg) from error
        self._sqlite_file = Path(str(self._url.database)) if dialect == "sqlite" else None

    def __str__(self) -> str:
        return f"{self._what} {self._url.render_as_string(hide_password=True)}"

    def rows(self, table: sql.Table, query: sql.Select[tuple[object, ...]]) -> list[sql.RowMapping]:
        """What a query of a table finds; nothing where there is no such table yet.

        Raises:
            LedgerUnavailable: the database does not answer.
            LedgerError: it refuses.
        """
        if self._sqlite_file is not None and not self._sqlite_file.exists():
            return []  # connecting would leave an empty file, which is no database that MLflow would make its tables in
        with self.translated("read"), self.engine.connect() as connection:
            if not sql.inspect(connection).has_table(table.name):
                return []
            return list(connection.execute(query).mappings())

    @contextmanager
    def writing(self, doing: str, *tables: sql.Table) -> Iterator[sql.Connection]:
        """A transaction in a database that has these tables.

        Raises:
            sqlalchemy.exc.IntegrityError: what was to be added is there already.
            LedgerUnavailable: the database does not answer.
            LedgerError: it refuses for another reason.
        """
        try:
            self._make(tables)
            with self.engine.begin() as connection:
                yield connection
        except sql.exc.IntegrityError:
            raise
        except sql.exc.SQLAlchemyError as error:
            raise self._as_ours(error, doing) from error

    @contextmanager
    def translated(self, doing: str) -> Iterator[None]:
        """SQLAlchemy's errors become :class:`~registry.errors.LedgerError`, naming what was being done."""
        try:
            yield
        except sql.exc.SQLAlchemyError as error:
            raise self._as_ours(error, doing) from error

    def _make(self, tables: Sequence[sql.Table]) -> None:
        # In a transaction of its own: of two that make a table at once, PostgreSQL tells one that the table's type is there already,
        # which is no word on the row that it wants to add. By then the other has made the table, and the next try finds it.
        for last in (False, False, True):
            try:
                with self.engine.begin() as connection:
                    for table in tables:
                        connection.execute(sql.schema.CreateTable(table, if_not_exists=True))
            except (sql.exc.IntegrityError, sql.exc.ProgrammingError) as error:
                if last:
                    raise self._as_ours(error, f"make {', '.join(table.name for table in tables)}") from error
            else:
                return

    def _as_ours(self, error: sql.exc.SQLAlchemyError, doing: str) -> LedgerError:
        what = f"{self}: cannot {doing}: {str(error).splitlines()[0]}."
        if _may_pass(error):
            return LedgerUnavailable(f"{what} It may answer later; if it never does, check [registry] ledger_url.")
        return LedgerError(f"{what} Check [registry] ledger_url.")


def _may_pass(error: sql.exc.SQLAlchemyError) -> bool:
    """Whether the database was away, restarted or busy, rather than asked for what it will never do."""
    if not isinstance(error, sql.exc.DBAPIError):
        return False
    if error.connection_invalidated or isinstance(error, sql.exc.InterfaceError):
        return True
    if not isinstance(error, sql.exc.OperationalError):
        return False
    # SQLite has one class of error for a lock and for a folder that is not there, and says which by name.
    name = getattr(error.orig, "sqlite_errorname", None)
    if name is not None:
        return bool(name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")))
    # PostgreSQL gives a state only once one is connected; whoever is refused before may just have come too early.
    state = str(getattr(error.orig, "sqlstate", None) or "")
    return not state.startswith(_FINAL_STATES)
