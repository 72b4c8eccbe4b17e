"""Joins of a consumer group that outlast a poll, which kafka-python 3.0.12 loses.

A poll whose time is up while a join is under way leaves it for the next one to take up. Of a join that ended in between it does
not: it begins another, for ever if polls are short, and all others in the group must join again each time. And where the join was
begun because the topic has other partitions than before, the next poll sees that those have been shared out, so that no join is
needed, and never takes the place that was given (nor asks again, where the broker died before it answered): it reads nothing,
sends no heartbeats, and says nothing.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any

from kafka.errors import KafkaError, KafkaTimeoutError


class _Underway:
    """A join that is not over before a poll has taken what it brought.

    It is over, and another is begun, where no poll would end it: a join that timed out is taken for a poll's time being up, and one that
    failed in no way of Kafka's is kept. And where nobody polled for so long that the place is not ours any more: until it is taken, no
    heartbeat is sent.
    """

    def __init__(self, join: Any, *, lasts: float) -> None:
        self._join, self._lasts = join, lasts
        self._ended: float | None = None
        join.add_both(self._note)

    @property
    def is_done(self) -> bool:
        """Whether another join is to be begun."""
        if self._ended is None:
            return False
        failed = self._join.exception
        lost = failed is not None and (isinstance(failed, KafkaTimeoutError) or not isinstance(failed, KafkaError))
        return lost or time.monotonic() - self._ended > self._lasts

    def _note(self, _: Any) -> None:
        self._ended = time.monotonic()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._join, name)

    def __await__(self) -> Generator[Any, None, Any]:
        found: Generator[Any, None, Any] = self._join.__await__()
        return found


def keep_join(consumer: Any) -> None:
    """After a poll: have the next one take up the join that this one left, if it left one.

    Args:
        consumer: kafka-python's, of a group. No other thread polls it.
    """
    coordinator = consumer._coordinator  # noqa: SLF001 - it has no public way to it
    if coordinator.rejoining:
        coordinator.request_rejoin()
    join = coordinator._join_task  # noqa: SLF001
    if join is not None and not isinstance(join, _Underway):
        coordinator._join_task = _Underway(join, lasts=coordinator.config["session_timeout_ms"] / 1000)  # noqa: SLF001
