"""Which changes of the champion have been announced, and which could not be.

An announcement never fails, delays (beyond its time-out) or undoes a promotion. The protocol:

1. Before anything changes, it is noted from which entry on there is something to announce: a webhook that is set up later does
   not tell of the years before.
2. When champion and ledger agree again and the lock has been given back, every entry from there on that moved the champion, is
   settled and has not arrived is sent, oldest first. Killed before that, the next call sends it.
3. Each try is kept with what came of it. After one that failed the rest waits for the next call; after the fifth try of an entry
   it is given up, so that one bad message does not hold back all others. So an entry arrives at least once, or it is said why not;
   the receiver knows a second copy by its ``webhook-id``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Protocol

import sqlalchemy as sql

from registry.chain import Entry
from registry.database import Database
from registry.errors import RegistryError
from registry.ledger import Ledger
from registry.webhook import TRIES, Attempt, Notice

_METADATA = sql.MetaData()
_FROM = sql.Table(
    "sensorloop_notices_from",
    _METADATA,
    sql.Column("model_name", sql.String(256), primary_key=True),
    sql.Column("after", sql.BigInteger, nullable=False),
)
_NOTICES = sql.Table(
    "sensorloop_notices",
    _METADATA,
    sql.Column("sequence", sql.BigInteger, primary_key=True, autoincrement=False),
    sql.Column("attempt", sql.Integer, primary_key=True, autoincrement=False),
    sql.Column("delivered", sql.Boolean, nullable=False),
    sql.Column("text", sql.Text, nullable=False),
    sql.Column("at", sql.String(40), nullable=False),
)

_log = logging.getLogger(__name__)


class Sender(Protocol):
    """Sends an entry: a :class:`registry.webhook.Webhook`."""

    def send(self, entry: Entry) -> Attempt:
        """Say what came of it; never raise."""


class Notices:
    """The announcements of one model's ledger.

    Args:
        url: SQLAlchemy URL of the ledger's database.
        ledger: whose entries are announced.
        model_name: which of them.
        sender: None where there is no webhook: then nothing is noted, and what was noted can be read.
        clock: the time now, with time zone.
    """

    def __init__(
        self, url: str, ledger: Ledger, model_name: str, *, sender: Sender | None, clock: Callable[[], datetime]
    ) -> None:
        self._database = Database(url, "Notices")
        self._ledger = ledger
        self._model_name = model_name
        self._sender = sender
        self._clock = clock

    def begin(self) -> None:
        """Step 1, once: later calls change nothing."""
        if self._sender is None or self._after() is not None:
            return
        head = self._ledger.head()
        row = {"model_name": self._model_name, "after": head.sequence if head else 0}
        try:
            with self._database.writing("note where announcements begin", _FROM) as connection:
                connection.execute(sql.insert(_FROM).values(row))
        except sql.exc.IntegrityError:
            return  # somebody was faster, and saw the same or less

    def deliver(self) -> None:
        """Steps 2 and 3. Whatever goes wrong is logged; the promotion has been made."""
        if self._sender is None:
            return
        try:
            for entry in self._due():
                if not self._send(self._sender, entry):
                    return
        except RegistryError:
            _log.exception("Announcing the champion of %s failed; the next promotion tries again", self._model_name)

    def known(self) -> Mapping[int, Notice]:
        """Sequence of an entry → what came of announcing it."""
        found: dict[int, Notice] = {}
        query = sql.select(_NOTICES).order_by(_NOTICES.c.sequence, _NOTICES.c.attempt)
        for row in self._database.rows(_NOTICES, query):
            before = found.get(row["sequence"])
            if before is None or not before.delivered:
                found[row["sequence"]] = Notice(
                    attempts=row["attempt"], delivered=bool(row["delivered"]), text=row["text"], at=row["at"]
                )
        return found

    def _due(self) -> list[Entry]:
        after, known = self._after(), self.known()
        if after is None:
            return []
        return [
            entry
            for entry in self._ledger.entries(self._model_name)
            if entry.sequence > after
            and entry.moves_champion
            and ((notice := known.get(entry.sequence)) is None or not (notice.delivered or notice.attempts >= TRIES))
            and self._ledger.is_settled(entry)
        ]

    def _send(self, sender: Sender, entry: Entry) -> bool:
        attempt = sender.send(entry)
        before = self.known().get(entry.sequence)
        number = before.attempts + 1 if before else 1
        row = {
            "sequence": entry.sequence, "attempt": number, "delivered": attempt.delivered, "text": attempt.text[:1000],
            "at": self._clock().astimezone(UTC).isoformat(timespec="seconds"),
        }  # fmt: skip
        try:
            with self._database.writing("note an announcement", _NOTICES) as connection:
                connection.execute(sql.insert(_NOTICES).values(row))
        except sql.exc.IntegrityError:
            return attempt.delivered  # somebody else announced it at the same time, and has noted theirs
        if not attempt.delivered:
            _log.warning(
                "Entry %d of %s (champion: version %s) was not announced at try %d of %d: %s",
                entry.sequence, self._model_name, entry.version, number, TRIES, attempt.text,
            )  # fmt: skip
        return attempt.delivered

    def _after(self) -> int | None:
        query = sql.select(_FROM).where(_FROM.c.model_name == self._model_name)
        rows = self._database.rows(_FROM, query)
        return int(rows[0]["after"]) if rows else None
