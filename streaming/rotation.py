"""When to commit, and why. Pure.

A commit is due for the first of these that is true:

* ``size``: as many windows, or bytes of them, wait as make a file.
* ``age``: the oldest waits for the commit interval. It is visible at most one poll and one commit later.
* ``idle``: nothing came for a while; what waits need not wait for more.
* ``young``: a partition that we have not had for long may be taken away soon, and then what waits is read and cut again by
  its next owner. So its windows wait no longer than half as long as we have had it: a group in which consumers come and go every
  second gets on, and one that is left alone is back at the commit interval after a handful of small files.
* ``offsets``: no window waits, but what was read (repeats, dead letters) need not be read again.

Two more are decided elsewhere: ``memory`` (:mod:`streaming.memory`) and ``stop``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from streaming.settings import IngestSettings


class Reason(StrEnum):
    """Why a commit was made."""

    SIZE = "size"
    AGE = "age"
    IDLE = "idle"
    YOUNG = "young"
    OFFSETS = "offsets"
    MEMORY = "memory"
    STOP = "stop"


@dataclass(frozen=True, kw_only=True, slots=True)
class Waiting:
    """What of one partition waits to be committed."""

    rows: int
    """Closed windows."""
    bytes: int
    """Of their signals."""
    since: datetime | None
    """When the oldest of them closed; None if there is none."""
    assigned: datetime
    """Since when the partition is ours."""


def due(
    waiting: Sequence[Waiting], *, now: datetime, heard: datetime, committed: datetime, settings: IngestSettings
) -> Reason | None:
    """Whether a commit is due.

    Args:
        waiting: a partition each.
        now: on our clock, as all times here.
        heard: when the last record came.
        committed: when the last commit was made, or tried.
        settings: the limits.

    Returns:
        Why; None if it is not.
    """
    if sum(w.rows for w in waiting) >= settings.commit_rows or sum(w.bytes for w in waiting) >= settings.commit_bytes:
        return Reason.SIZE
    oldest = min((w.since for w in waiting if w.since is not None), default=None)
    if oldest is None:
        return Reason.OFFSETS if now - committed >= settings.commit_interval else None
    if now - oldest >= settings.commit_interval:
        return Reason.AGE
    if now - heard >= settings.commit_idle:
        return Reason.IDLE
    if any(w.since is not None and now - w.since > (now - w.assigned) / 2 for w in waiting):
        return Reason.YOUNG
    return None
