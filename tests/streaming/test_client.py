"""The consumer beside a real Kafka: what a group of more members than partitions gives each."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack

import pytest
from kafka.cluster import ClusterMetadata
from kafka.errors import NodeNotReadyError, TopicAuthorizationFailedError

from streaming import client
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
        # On a busy machine the group's leader may hear of the new topic late: until then nobody has a partition.
        while {member.spare() for member in members} != {True, False} or not any(map(KafkaSource.end_offsets, members)):
            assert time.monotonic() < deadline
            for member in members:
                member.poll(0.05)
        spare, owner = sorted(members, key=lambda member: len(member.end_offsets()))
        assert (spare.spare(), owner.spare()) == (True, False)
        assert (spare.end_offsets(), len(owner.end_offsets())) == ({}, 1)
        owner.close()
        while spare.spare() and time.monotonic() < deadline:
            spare.poll(0.05)
        assert not spare.spare(), "it is given the partition of the other"


@pytest.mark.broker
def test_a_request_for_the_topic_that_the_client_forgets_is_made_again(
    bootstrap_servers: str, new_topic: Callable[[int], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer of its bootstrap, which asked of no topic, lets it forget that it was to ask of ours (kafka-python 3.0.12)."""
    monkeypatch.setattr(client, "_METADATA_AGE_MS", 500)
    settings = KafkaSettings(
        bootstrap_servers=bootstrap_servers, batches_topic=new_topic(1), group_id=f"g-{uuid.uuid4().hex}"
    )
    asked = ClusterMetadata.request_update

    def forgotten(cluster: ClusterMetadata) -> object:
        future = asked(cluster)
        cluster._need_update = False
        return future

    with ExitStack() as stack:
        monkeypatch.setattr(ClusterMetadata, "request_update", forgotten)
        source = KafkaSource(settings, IngestSettings())
        stack.callback(source.close)
        deadline = time.monotonic() + 60
        while not source.end_offsets():
            assert time.monotonic() < deadline
            source.poll(0.05)


@pytest.mark.broker
def test_polls_that_find_a_broker_gone_are_said_and_waited_out(
    bootstrap_servers: str,
    new_topic: Callable[[int], str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings = KafkaSettings(
        bootstrap_servers=bootstrap_servers, batches_topic=new_topic(1), group_id=f"g-{uuid.uuid4().hex}"
    )
    source = KafkaSource(settings, IngestSettings())

    def gone(**_: object) -> None:
        raise NodeNotReadyError

    with ExitStack() as stack:
        stack.callback(source.close)
        with monkeypatch.context() as patched:
            patched.setattr(source._consumer, "poll", gone)
            assert [source.poll(0.01).answering for _ in range(4)] == [True, True, False, False]
        assert [record.message[:26] for record in caplog.records if record.name == "streaming.client"] == [
            "A poll found a broker gone"
        ] * 2
        deadline = time.monotonic() + 60
        while not source.poll(0.05).assigned and time.monotonic() < deadline:
            pass
        assert source.poll(0.05).answering


@pytest.mark.broker
def test_an_error_that_will_not_pass_is_not_waited_out(
    bootstrap_servers: str, new_topic: Callable[[int], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = KafkaSettings(
        bootstrap_servers=bootstrap_servers, batches_topic=new_topic(1), group_id=f"g-{uuid.uuid4().hex}"
    )
    source = KafkaSource(settings, IngestSettings())

    def refused(**_: object) -> None:
        raise TopicAuthorizationFailedError

    with ExitStack() as stack:
        stack.callback(source.close)
        monkeypatch.setattr(source._consumer, "poll", refused)
        with pytest.raises(TopicAuthorizationFailedError):
            source.poll(0.01)
