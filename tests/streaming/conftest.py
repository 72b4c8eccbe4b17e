"""What several of these tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .consumers import Consumer


@pytest.fixture
def started() -> Iterator[list[Consumer]]:
    """Consumers that are ended whatever happens."""
    consumers: list[Consumer] = []
    yield consumers
    for consumer in consumers:
        consumer.kill()
