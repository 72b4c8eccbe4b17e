"""Joins of a consumer group that outlast a poll, which kafka-python 3.0.12 loses.

A poll whose time is up while a join is under way leaves it for the next one to take up. Of a join that ended in between it does
not: it begins another, for ever if polls are short, and all others in the group must join again each time. And where the join was
begun because the topic has other partitions than before, the next poll sees that those have been shared out, so that no join is
needed, and never takes the place that was given (nor asks again, where the broker died before it answered): it reads nothing,
sends no heartbeats, and says nothing.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any


class _Underway:
    """A join that is not over before a poll has taken what it brought."""

    is_done = False

    def __init__(self, join: Any) -> None:
        self._join = join

    def __getattr__(self, name: str) -> Any:
        return getattr(self._join, name)

    def __await__(self) -> Generator[Any, None, Any]:
        found: Generator[Any, None, Any] = self._join.__await__()
        return found


def keep_join(consumer: Any) -> None:
    """Before a poll: have it take up the join that the last one left, if it left one.

    Args:
        consumer: kafka-python's, of a group. No other thread polls it.
    """
    coordinator = consumer._coordinator  # noqa: SLF001 - it has no public way to it
    if coordinator.rejoining:
        coordinator.request_rejoin()
    join = coordinator._join_task  # noqa: SLF001
    if join is not None and not isinstance(join, _Underway):
        coordinator._join_task = _Underway(join)  # noqa: SLF001
