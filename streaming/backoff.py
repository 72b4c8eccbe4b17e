"""How long to wait before trying again. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta


class Backoff:
    """1 s after the first failure, twice as long after each further one, up to a limit.

    Args:
        longest: the limit.
    """

    def __init__(self, longest: timedelta) -> None:
        self._longest = longest
        self.failures = 0
        self.until: datetime | None = None
        """When to try again; None while nothing has failed."""

    def failed(self, now: datetime) -> timedelta:
        """It has failed; returns how long to wait."""
        wait = min(self._longest, timedelta(seconds=2 ** min(self.failures, 30)))
        self.failures += 1
        self.until = now + wait
        return wait

    def succeeded(self) -> None:
        """It has worked."""
        self.failures, self.until = 0, None

    def waiting(self, now: datetime) -> bool:
        """Whether it is too early to try again."""
        return self.until is not None and now < self.until
