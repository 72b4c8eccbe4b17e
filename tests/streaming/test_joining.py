"""Joins of a group that end while nobody polls, beside a real Kafka."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack

import pytest
from kafka.admin import KafkaAdminClient

from streaming.client import KafkaSource
from streaming.settings import IngestSettings, KafkaSettings


@pytest.fixture
def settings(bootstrap_servers: str, new_topic: Callable[[int], str]) -> KafkaSettings:
    return KafkaSettings(
        bootstrap_servers=bootstrap_servers, batches_topic=new_topic(1), group_id=f"g-{uuid.uuid4().hex}"
    )


def _until_assigned(source: KafkaSource, partitions: int) -> None:
    """Poll for a moment at a time: whatever a poll asks is answered after it."""
    deadline = time.monotonic() + 30
    while len(source._consumer.assignment()) < partitions:
        assert time.monotonic() < deadline, "it is given nothing, or not what was added"
        source.poll(0.001)
        time.sleep(0.2)


@pytest.mark.broker
def test_a_place_given_between_two_polls_is_taken(settings: KafkaSettings) -> None:
    with ExitStack() as stack:
        source = KafkaSource(settings, IngestSettings())
        stack.callback(source.close)
        _until_assigned(source, 1)


@pytest.mark.broker
def test_partitions_that_are_added_are_given_between_two_polls(settings: KafkaSettings) -> None:
    """The leader of the group joins anew because it sees them, and between two polls shares them out."""
    with ExitStack() as stack:
        source = KafkaSource(settings, IngestSettings())
        stack.callback(source.close)
        deadline = time.monotonic() + 30
        while not source._consumer.assignment() and time.monotonic() < deadline:
            source.poll(0.5)
        admin = KafkaAdminClient(bootstrap_servers=settings.bootstrap_servers)
        stack.callback(admin.close)
        admin.create_partitions({settings.batches_topic: 2})
        _until_assigned(source, 2)
