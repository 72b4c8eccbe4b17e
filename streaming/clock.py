"""Our clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

Clock = Callable[[], datetime]
"""Says what time it is, as an aware datetime."""


class SteadyClock:
    """The time of day when it was made, and from then on what has passed: it never goes back.

    Somebody who sets the machine's clock back by an hour must not make windows wait for an hour.
    """

    def __init__(self) -> None:
        self._began, self._at = datetime.now(UTC), time.monotonic()

    def __call__(self) -> datetime:
        """The time now."""
        return self._began + timedelta(seconds=time.monotonic() - self._at)
