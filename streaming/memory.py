"""How much is held in memory, and who has to wait when it is too much. Pure.

Held are the batches that open windows need, and closed windows until their commit. When that is more than the budget,

1. what is closed is committed (:mod:`streaming.rotation`, reason ``memory``);
2. if that is not enough, the partitions *take turns*: one is read, the others are forgotten and paused. What is forgotten is
   read again from the table's offset when its turn comes, so nothing is lost, and time is what it costs;
3. when what all of them needed in their turns fits again, all are read again.

What one partition alone needs cannot be got rid of: a window is open until later samples of its session close it. That is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from streaming.offsets import TopicPartition

_FITS = 0.8
"""Share of the budget that must do for all before they are read at once again, so that turns do not begin and end all the time."""


class Budget:
    """Bytes held against the most that may be.

    Measuring looks at everything that is held; so it is done only when what was added since might be too much.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        """Not less than what is really held: as last measured, and what was added since."""

    @property
    def over(self) -> bool:
        """Whether it might be too much."""
        return self.held > self.limit

    def add(self, count: int) -> None:
        """So many bytes came."""
        self.held += count

    def measured(self, count: int) -> None:
        """So many bytes are held."""
        self.held = count


class Turns:
    """Partitions that are read one at a time.

    Args:
        partitions: all of them.
        current: who begins.
        now: on our clock.
    """

    def __init__(self, partitions: Sequence[TopicPartition], current: TopicPartition, now: datetime) -> None:
        self.all = sorted(partitions, key=lambda p: (p.topic, p.partition))
        self._needs: dict[TopicPartition, int] = {}
        self.current = current
        self.since = now

    @property
    def waiting(self) -> list[TopicPartition]:
        """Those whose turn it is not."""
        return [partition for partition in self.all if partition != self.current]

    def next(self, held: int, now: datetime) -> TopicPartition:
        """End a turn, at the end of which so many bytes were held; returns whose turn it is now."""
        self._needs[self.current] = held
        self.current = self.all[(self.all.index(self.current) + 1) % len(self.all)]
        self.since = now
        return self.current

    def fit(self, limit: int) -> bool:
        """Whether each had a turn, and what they needed would go together."""
        return len(self._needs) == len(self.all) and sum(self._needs.values()) <= _FITS * limit
