"""The consumer beside a real Kafka: what a group of more members than partitions gives each."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from streaming.client import KafkaSource
from streaming.settings import IngestSettings, KafkaSettings


@pytest.mark.broker
def test_of_two_members_and_one_partition_one_is_spare(bootstrap_servers: str, new_topic: Callable[[int], str]) -> None:
    settings = KafkaSettings(
        bootstrap_servers=bootstrap_servers, batches_topic=new_topic(1), group_id=f"g-{uuid.uuid4().hex}"
    )
    with ExitStack() as stack:
        members = [KafkaSource(settings, IngestSettings()) for _ in range(2)]
        for member in members:
            stack.callback(member.close)
        assert not any(member.spare() for member in members), "nothing is shared out yet"
        deadline = time.monotonic() + 60
        while not any(member.spare() for member in members) and time.monotonic() < deadline:
            for member in members:
                member.poll(0.05)
        spare, owner = sorted(members, key=lambda member: len(member.end_offsets()))
        assert (spare.spare(), owner.spare()) == (True, False)
        assert (spare.end_offsets(), len(owner.end_offsets())) == ({}, 1)
        owner.close()
        while spare.spare() and time.monotonic() < deadline:
            spare.poll(0.05)
        assert not spare.spare(), "it is given the partition of the other"
