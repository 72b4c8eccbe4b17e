"""Partitions of which nothing comes: who is asked of them, and what is believed meanwhile. No Kafka, and a clock that tests move."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import pytest

from streaming.errors import ClientError
from streaming.offsets import TopicPartition
from streaming.quiet import ASK_AFTER_S, ASK_AGAIN_S, FAILED_POLLS, GONE_AFTER_S, Quiet

ALL = [TopicPartition(topic="t", partition=number) for number in range(4)]


class Kafka:
    """Partitions, some without a leader; a question takes as long as it may if it is not answered."""

    def __init__(self, partitions: Sequence[TopicPartition] = ALL) -> None:
        self.now = 100.0
        self.ends = dict.fromkeys(partitions, 7)
        self.leaderless: set[TopicPartition] = set()
        self.asked: list[list[TopicPartition]] = []
        self.quiet = Quiet(self.ask, lambda: self.now)

    def ask(self, partitions: Sequence[TopicPartition], timeout_ms: int) -> Mapping[TopicPartition, int]:
        self.asked.append(list(partitions))
        if self.leaderless & set(partitions):
            self.now += timeout_ms / 1000
            msg = "no answer"
            raise ClientError(msg)
        return {partition: self.ends[partition] for partition in partitions}

    def poll(self, *came: TopicPartition, after: float = 1.0) -> dict[TopicPartition, int]:
        self.now += after
        return self.quiet.polled(list(self.ends), came)


def test_only_those_are_asked_of_that_are_quiet_for_a_while() -> None:
    kafka = Kafka()
    assert kafka.poll(*ALL) == {}
    assert kafka.poll(*ALL[:2], after=ASK_AFTER_S) == {ALL[2]: 7, ALL[3]: 7}
    assert kafka.poll(after=ASK_AFTER_S / 2) == {}, "they were just asked of"
    assert kafka.asked == [ALL[2:]]
    assert kafka.quiet.ends == {ALL[2]: 7, ALL[3]: 7}


def test_one_without_a_leader_does_not_make_the_others_deaf() -> None:
    """Else their sessions would never become idle while it has none."""
    kafka = Kafka()
    kafka.leaderless = {ALL[1]}
    for _ in range(5):
        found = kafka.poll(after=ASK_AFTER_S)
        assert found.keys() == set(ALL) - kafka.leaderless
        assert kafka.quiet.answering
    assert sum(ALL[1] in asked for asked in kafka.asked) == 2, "with the others, then alone, then not for a while"
    kafka.leaderless = set()
    assert kafka.poll(after=ASK_AGAIN_S).keys() == set(ALL)


def test_two_without_a_leader_do_not_make_kafka_seem_gone() -> None:
    """Whichever are asked of first: the order of an assignment is that of a set."""
    for gone in itertools.combinations(ALL, 2):
        kafka = Kafka()
        kafka.leaderless = set(gone)
        for _ in range(5):
            assert kafka.poll(after=ASK_AFTER_S).keys() == set(ALL) - set(gone)
            assert kafka.quiet.answering
        assert sum(len(set(gone) & set(asked)) > 0 for asked in kafka.asked) == 3, (
            "together, each alone, then not for a while"
        )


def test_many_without_a_leader_are_asked_of_a_few_at_a_time_and_the_others_found_all_the_same() -> None:
    """A poll may not take longer than Kafka waits for a member of the group, nor as long as the leaderless are many."""
    many = [TopicPartition(topic="t", partition=number) for number in range(40)]
    for alive in (many[0], many[20], many[39]):
        kafka = Kafka(many)
        kafka.leaderless = set(many) - {alive}
        waited, found = [], False
        for _ in range(20):
            before = kafka.now + ASK_AFTER_S
            found = kafka.poll(after=ASK_AFTER_S) == {alive: 7} or found
            waited.append(kafka.now - before)
        assert found
        assert max(waited) <= 4.0
        assert kafka.quiet.answering
    kafka.leaderless = set()
    found_again: set[TopicPartition] = set()
    for _ in range(int(ASK_AGAIN_S) + 1):
        found_again |= kafka.poll(after=ASK_AFTER_S).keys()
    assert found_again == set(many)


def test_one_that_is_alone_and_without_a_leader_is_not_waited_for_at_each_poll() -> None:
    kafka = Kafka()
    kafka.leaderless = {ALL[3]}
    for _ in range(5):
        assert kafka.poll(*ALL[:3], after=ASK_AFTER_S) == {}
        assert kafka.quiet.answering, "the others are heard"
    assert kafka.asked == [[ALL[3]]]


def test_a_kafka_that_is_gone_is_one_and_is_asked_until_it_is_back() -> None:
    kafka = Kafka()
    kafka.poll(*ALL)
    kafka.leaderless = set(ALL)
    for _ in range(3):
        assert kafka.poll() == {}
        assert not kafka.quiet.answering
    kafka.leaderless = set()
    assert kafka.poll().keys() == set(ALL)
    assert kafka.quiet.answering


@pytest.mark.parametrize("count", [1, 4, 12, 200])
def test_a_kafka_that_is_gone_is_missed_as_soon_with_many_partitions_as_with_few(count: int) -> None:
    kafka = Kafka([TopicPartition(topic="t", partition=number) for number in range(count)])
    kafka.poll(*kafka.ends)
    gone_since, kafka.leaderless = kafka.now, set(kafka.ends)
    while kafka.quiet.answering:
        kafka.poll(after=0.5)
    assert kafka.now - gone_since <= ASK_AFTER_S + GONE_AFTER_S + 4.0, "a poll asks for 4 s at most"
    kafka.leaderless = set()
    assert kafka.poll().keys() == set(kafka.ends), "it is noticed at once that it is back"
    assert kafka.quiet.answering


def test_time_that_was_spent_elsewhere_is_no_silence_of_kafka() -> None:
    """A commit that takes a minute, while of twelve partitions half have no leader."""
    kafka = Kafka([TopicPartition(topic="t", partition=number) for number in range(12)])
    kafka.poll(*kafka.ends)
    kafka.leaderless = {p for p in kafka.ends if p.partition < 6}
    for _ in range(2):
        kafka.poll(after=60.0)
        assert kafka.quiet.answering


def test_polls_that_fail_in_a_row_are_an_outage_and_said_twice() -> None:
    kafka = Kafka()
    assert [(kafka.quiet.failed(), kafka.quiet.answering) for _ in range(FAILED_POLLS + 2)] == [
        (True, True), (False, True), (True, False), (False, False), (False, False),
    ]  # fmt: skip
    assert kafka.quiet.polled([], []) == {}
    assert kafka.quiet.answering, "a poll went well, and there is nothing to ask about"
    assert kafka.quiet.failed(), "they are counted anew"
