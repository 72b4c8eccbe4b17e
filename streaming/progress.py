"""How far ingestion is. Pure.

``valid_through`` of a partition is a moment of event time: **of what Kafka had in it up to ``read_to``, everything measured before
that moment is in the table** (or was counted as late, unused or undecodable). It is

* where the oldest open window starts, if a window is open;
* else, if everything was read, the time on our clock at which that was found: phones have nothing in Kafka that is not in the table;
* else the newest event time that was seen.

It says nothing of what a phone that is offline will still send, and so it can go back: when that phone sends, the lake is again
incomplete from then on, until those windows close.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from streaming.offsets import TopicPartition


def valid_through_ns(*, open_since_ns: int | None, newest_ns: int | None, all_read: bool, now: datetime) -> int | None:
    """Until when a partition is complete, ns since the epoch; None if nothing is known of it.

    Args:
        open_since_ns: where the oldest open window starts; None if none is open.
        newest_ns: the newest event time that was seen.
        all_read: whether everything that is in Kafka was read.
        now: on our clock.
    """
    if open_since_ns is not None:
        return open_since_ns
    return int(now.timestamp() * 1_000_000) * 1_000 if all_read else newest_ns


@dataclass(frozen=True, kw_only=True, slots=True)
class Completeness:
    """Until when a lake is complete, in event time; see the module."""

    partitions: Mapping[TopicPartition, datetime] = field(default_factory=dict)

    @property
    def overall(self) -> datetime | None:
        """The least of all partitions; None if nothing is known of any."""
        return min(self.partitions.values(), default=None)


def moment(ns: int) -> datetime:
    """Nanoseconds since the epoch as a datetime."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=ns // 1_000)


@dataclass(frozen=True, kw_only=True, slots=True)
class PartitionProgress:
    """One partition of this consumer."""

    partition: TopicPartition
    position: int
    """Next offset to read."""
    end: int | None
    """One past the newest offset that Kafka told of."""
    open_sessions: int
    waiting: int
    """Closed windows, or labels, that are not committed."""
    open_since_ns: int | None
    """Event time at which the oldest open window starts."""
    valid_through_ns: int | None

    @property
    def lag(self) -> int:
        """Records that are not read."""
        return max(0, (self.end or 0) - self.position)


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """A consumer at a moment."""

    partitions: tuple[PartitionProgress, ...]
    counters: Mapping[str, int]
    held_bytes: int
    paused: int
    """Partitions that are not read for now: the lake cannot be written, or memory is short."""
    answering: bool
    """Whether Kafka answers."""
    commits: tuple[tuple[str, float], ...] = ()
    """(reason, seconds) of the commits since the last look."""
    refused: tuple[TopicPartition, ...] = ()
    """Partitions that are ours and not read, see :mod:`streaming.refusals`."""

    @property
    def lag(self) -> int:
        """Records that are not read, of all partitions."""
        return sum(each.lag for each in self.partitions)


def caught_up(
    positions: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int], refused: Container[TopicPartition]
) -> bool:
    """Whether a consumer has read all that there was.

    Args:
        positions: next offset to read of each partition that it reads.
        ends: where those that Kafka has assigned to it end. One that ends before its position is about to be refused.
        refused: those that it does not read.
    """
    return bool(ends) and all(p in refused or positions.get(p) == end for p, end in ends.items())


def total(counters: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """The sums of several consumers' counters."""
    sums: dict[str, int] = {}
    for each in counters:
        for name, count in each.items():
            sums[name] = sums.get(name, 0) + count
    return sums
