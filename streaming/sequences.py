"""Which batches of a session have come: its sequence numbers as disjoint intervals."""

from __future__ import annotations

from bisect import bisect_right


class Sequences:
    """A set of integers kept as sorted, disjoint, half-open intervals.

    Phones send in order nearly always, so there is one interval, whatever the length of the session.

    Args:
        start: the first of the interval that is there at first …
        stop: … and where it ends.
    """

    def __init__(self, start: int = 0, stop: int = 0) -> None:
        self._starts: list[int] = [start] if stop > start else []
        self._stops: list[int] = [stop] if stop > start else []

    def add(self, number: int) -> bool:
        """Add a number; False if it was there already."""
        if self._stops and number == self._stops[-1]:  # nearly always
            self._stops[-1] = number + 1
            return True
        at = bisect_right(self._starts, number)
        if at and number < self._stops[at - 1]:
            return False
        joins_left = at > 0 and self._stops[at - 1] == number
        joins_right = at < len(self._starts) and self._starts[at] == number + 1
        if joins_left and joins_right:
            self._stops[at - 1] = self._stops[at]
            del self._starts[at], self._stops[at]
        elif joins_left:
            self._stops[at - 1] = number + 1
        elif joins_right:
            self._starts[at] = number
        else:
            self._starts.insert(at, number)
            self._stops.insert(at, number + 1)
        return True

    @property
    def next(self) -> int:
        """One past the highest number seen; 0 if none was."""
        return self._stops[-1] if self._stops else 0

    @property
    def interval(self) -> tuple[int, int] | None:
        """(start, stop) if one interval is all there is."""
        return (self._starts[0], self._stops[0]) if len(self._starts) == 1 else None

    def covers(self, first: int | None, last: int) -> bool:
        """Whether every number from ``first`` (None: from the lowest seen) to ``last`` was seen."""
        at = bisect_right(self._starts, last)
        if not at or self._stops[at - 1] <= last:
            return False
        return (at == 1) if first is None else self._starts[at - 1] <= first

    def contiguous_from(self, first: int) -> int:
        """The first number from ``first`` on that was not seen."""
        at = bisect_right(self._starts, first)
        return self._stops[at - 1] if at and self._stops[at - 1] > first else first
