"""What kafka-python tells of a rebalance on its own thread, noted for the one that polls."""

from __future__ import annotations

import threading
import time
from typing import Any

import kafka

from streaming.offsets import TopicPartition


class Listener(kafka.ConsumerRebalanceListener):  # type: ignore[misc]  # kafka-python has no types
    """Notes what happened; runs on kafka-python's I/O thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._revoked: set[TopicPartition] = set()
        self._assigned: set[TopicPartition] = set()
        self._shared: float | None = None

    def on_partitions_revoked(self, revoked: Any) -> None:
        """They are taken away."""
        with self._lock:
            self._shared = None
            gone = {ours(partition) for partition in revoked}
            self._revoked |= gone
            self._assigned -= gone

    def on_partitions_assigned(self, assigned: Any) -> None:
        """They are given."""
        with self._lock:
            self._shared = time.monotonic()
            self._assigned |= {ours(partition) for partition in assigned}

    def on_partitions_lost(self, lost: Any) -> None:
        """They are gone already."""
        self.on_partitions_revoked(lost)

    def take(self) -> tuple[frozenset[TopicPartition], frozenset[TopicPartition]]:
        """Those taken away and those given since the last time."""
        with self._lock:
            taken = frozenset(self._revoked), frozenset(self._assigned)
            self._revoked, self._assigned = set(), set()
            return taken

    def shared_for(self) -> float:
        """Seconds since the group last gave out its partitions, none being a share too; 0 while it is about to."""
        with self._lock:
            return 0.0 if self._shared is None else time.monotonic() - self._shared


def ours(partition: Any) -> TopicPartition:
    """A partition of kafka-python, as ours."""
    return TopicPartition(topic=partition.topic, partition=partition.partition)


def theirs(partition: TopicPartition) -> Any:
    """The opposite."""
    return kafka.TopicPartition(partition.topic, partition.partition)
