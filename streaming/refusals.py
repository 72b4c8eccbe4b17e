"""Partitions that are not read, since their log is not the one that the lake has read (:mod:`streaming.incarnation`).

One of them must neither stop the others nor travel from consumer to consumer and stop each. So it is set aside:

1. What is held of it is forgotten, it is paused, and all else goes on. The log says so once, the metric ``refused_partitions`` for as
   long as it lasts.
2. A log that has lost its end grows again, past the offset that was read, and then nobody could tell. So that is noted in the table
   (a Delta application transaction), and holds for whoever is given the partition, until a person accepts it (``sensorloop lake
   accept``). A topic's id that is another stays another: nothing is to be noted, and nothing left behind where only the address of
   Kafka was wrong.
3. Each is looked up again every commit interval, so that what was accepted, or put right, is read on without a restart.
4. A consumer that ends says which it has not read, as an error.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Protocol

from streaming.delta import Table, open_table
from streaming.errors import CommitConflict, LogReplaced, SettingsError
from streaming.offsets import TopicPartition
from streaming.storage import Lake, Storage

_ATTEMPTS = 3

_log = logging.getLogger(__name__)


class Noting(Protocol):
    """A table that can keep a refusal."""

    def refuse(self, partition: TopicPartition, ended: int, reason: str) -> None:
        """See :func:`note`."""


class Refusals:
    """The partitions of one consumer that are set aside.

    Args:
        table: where refusals are noted.
        again: how often each is looked up again.
        now: on our clock.
    """

    def __init__(self, table: Noting, *, again: timedelta, now: datetime) -> None:
        self.reasons: dict[TopicPartition, str] = {}
        """Those that are ours and not read, and why."""
        self._unnoted: dict[TopicPartition, LogReplaced] = {}
        """Also of partitions that were taken away since: their next owner might not see what we saw."""
        self._table = table
        self._again = again
        self._looked = now

    @property
    def unnoted(self) -> bool:
        """Whether the table has to hear of some yet."""
        return bool(self._unnoted)

    def add(self, partition: TopicPartition, error: LogReplaced) -> None:
        """Set one aside."""
        if partition not in self.reasons:
            _log.error("%s The other partitions are read on.", error)
        self.reasons[partition] = str(error)
        if error.ended is not None:
            self._unnoted.setdefault(partition, error)

    def note(self) -> None:
        """Tell the table.

        Raises:
            LakeError: it cannot be written; what is left is told the next time.
        """
        for partition, error in list(self._unnoted.items()):
            self._table.refuse(partition, error.ended or 0, str(error))
            del self._unnoted[partition]

    def due(self, now: datetime) -> set[TopicPartition]:
        """Those that are to be looked up again."""
        if now - self._looked < self._again:
            return set()
        self._looked = now
        return set(self.reasons) - set(self._unnoted)

    def forget(self, partition: TopicPartition) -> None:
        """It is read, or not ours any more."""
        self.reasons.pop(partition, None)


def require_none(*reasons: Mapping[TopicPartition, str]) -> None:
    """See that nothing was left unread.

    Raises:
        LogReplaced: something was; says what, and why.
    """
    all_reasons = [reason for some in reasons for _, reason in sorted(some.items(), key=lambda item: str(item[0]))]
    if all_reasons:
        count = "1 partition was" if len(all_reasons) == 1 else f"{len(all_reasons)} partitions were"
        msg = f"{count} not read, all else is in the lake. {' '.join(all_reasons)}"
        raise LogReplaced(msg)


def note(table: Table, partition: TopicPartition, ended: int, reason: str) -> None:
    """Have every consumer refuse a partition from now on. Anybody may say so: what was seen of the log is true whoever saw it.

    Args:
        table: that is filled from it; at its newest version afterwards.
        partition: whose log has lost its end.
        ended: from where on records that were read are gone, at the earliest.
        reason: for whoever reads the table's history.

    Raises:
        LakeError: it cannot be written.
    """
    record = {"topic": partition.topic, "partition": partition.partition, "ended": ended, "reason": reason}
    _write(table, partition, ended + 1, {"refused": [record]})


def accept(lake: Lake, table: str, partition: TopicPartition, *, by: str) -> None:
    """Have a partition that was refused be read on, from the offset that the table has of it.

    Args:
        lake: whose table.
        table: which.
        partition: that was refused.
        by: who accepts it, for whoever reads the table's history.

    Raises:
        NoTable: there is no such table.
        SettingsError: nothing is noted against the partition.
        LakeError: it cannot be written.
    """
    found = open_table(Storage(lake, table))
    if not found.transaction(partition.refused_application):
        msg = f"{partition} is not refused: there is nothing to accept. 'sensorloop status' shows which are."
        raise SettingsError(msg)
    record = {"topic": partition.topic, "partition": partition.partition, "by": by}
    _write(found, partition, 0, {"accepted": [record]})


def one_less(version: int | None) -> int | None:
    """What a transaction says whose version is one more than that; 0 and no version are None, since none can be taken back."""
    return version - 1 if version else None


def _write(table: Table, partition: TopicPartition, version: int, metadata: Mapping[str, Iterable[object]]) -> None:
    for _ in range(_ATTEMPTS):
        table.refresh()
        if bool(table.transaction(partition.refused_application)) == bool(version):
            return  # somebody else was faster, and who saw it first saw most
        try:
            # What was accepted need not follow upon what was read: the leader of that is no matter any more.
            epoch = {} if version else {partition.epoch_application: 0}
            table.commit(transactions={partition.refused_application: version, **epoch}, metadata=metadata)
        except CommitConflict:
            continue
        return
    msg = f"Others commit to {table.storage.uri} again and again; it could not be noted whether {partition} is refused. Try again."
    raise CommitConflict(msg)
