"""Joins of a group that end while nobody polls: beside a real Kafka, and over fakes."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from types import SimpleNamespace

import pytest
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaTimeoutError, NodeNotReadyError, UnknownMemberIdError
from kafka.future import Future

from streaming import joining
from streaming.client import KafkaSource
from streaming.joining import keep_join
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


class Coordinator:
    """What kafka-python's has, as far as a join goes."""

    def __init__(self, join: Future | None, *, rejoining: bool = True) -> None:
        self.rejoining, self._join_task, self.config = rejoining, join, {"session_timeout_ms": 30_000}
        self.asked = 0

    def request_rejoin(self) -> None:
        self.asked += 1


def kept(join: Future | None, **more: bool) -> Coordinator:
    coordinator = Coordinator(join, **more)
    keep_join(SimpleNamespace(_coordinator=coordinator))
    return coordinator


def test_a_join_is_kept_whether_it_goes_on_or_has_ended_until_its_end_was_taken() -> None:
    join = Future()
    task = kept(join)._join_task
    assert not task.is_done
    join.success(b"ours")
    assert not task.is_done
    taken = list[bytes]()
    task.add_callback(taken.append)
    assert taken == [b"ours"]
    coordinator = kept(join)
    keep_join(SimpleNamespace(_coordinator=coordinator))
    assert not isinstance(coordinator._join_task._join, type(task)), "it is kept once"


@pytest.mark.parametrize(
    ("failed", "over"),
    [
        (UnknownMemberIdError(), False),
        (NodeNotReadyError(), False),
        (KafkaTimeoutError(), True),
        (ValueError("no"), True),
    ],
)
def test_a_join_that_failed_in_a_way_no_poll_would_end_is_over(failed: Exception, over: bool) -> None:
    """A poll takes that of a connection that was too long in the making for its own time being up, and asks no more."""
    join = Future()
    task = kept(join)._join_task
    join.failure(failed)
    assert task.is_done == over


def test_a_place_that_nobody_took_for_a_sessions_time_is_asked_for_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    join, now = Future(), time.monotonic()
    task = kept(join)._join_task
    join.success(b"ours")
    monkeypatch.setattr(joining.time, "monotonic", lambda: now + 29)
    assert not task.is_done
    monkeypatch.setattr(joining.time, "monotonic", lambda: now + 31)
    assert task.is_done


def test_who_has_begun_to_join_asks_on_though_the_broker_died_before_it_answered() -> None:
    assert kept(None).asked == 1
    assert kept(None, rejoining=False).asked == 0
    assert kept(None)._join_task is None
