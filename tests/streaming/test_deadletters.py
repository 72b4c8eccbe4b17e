"""Dead letters in a real Kafka: listed, sent again, and remembered."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import kafka
import pytest

from streaming.deadletters import REPLAY_HEADER, letters, send_again
from streaming.label_wire import LABEL_CONTENT_TYPE
from streaming.letters import KafkaDeadLetters
from streaming.settings import KafkaSettings
from streaming.topics import create_topics
from tests.test_sensorloop import answer, run

pytestmark = pytest.mark.broker


@pytest.fixture
def topics(bootstrap_servers: str) -> KafkaSettings:
    """Three dead letters, one of them sent twice by a restart, and a record that is none of ours."""
    name = uuid.uuid4().hex[:8]
    settings = KafkaSettings(
        bootstrap_servers=bootstrap_servers, batches_topic=f"b-{name}", deadletter_topic=f"x-{name}"
    )
    create_topics(bootstrap_servers, {settings.batches_topic: 2, settings.deadletter_topic: 1})
    dead = KafkaDeadLetters(settings)
    for value, offset, reason in ((b"one", 7, "not_protobuf"), (b"one", 7, "not_protobuf"), (None, 9, "empty"),
                                  (b"three\xff", 8, "not_protobuf")):  # fmt: skip
        at = {"topic": settings.batches_topic, "partition": "1", "offset": str(offset)}
        dead.send(value, key=b"phone", headers={"reason": reason, "detail": "why", **at})
    dead.send(b"?", key=None, headers={"of": "somebody else"})
    dead.flush()
    dead.close()
    return settings


def batches(settings: KafkaSettings) -> Iterator[tuple[bytes | None, bytes | None, dict[str, bytes]]]:
    consumer = kafka.KafkaConsumer(
        settings.batches_topic, bootstrap_servers=settings.bootstrap_servers, auto_offset_reset="earliest",
        consumer_timeout_ms=3000,
    )  # fmt: skip
    found = [(record.value, record.key, dict(record.headers)) for record in consumer]
    consumer.close()
    return iter(sorted(found, key=str))


def test_letters_are_listed_once_each_by_where_they_were(topics: KafkaSettings) -> None:
    found = letters(topics)
    assert [(letter.offset, letter.reason, letter.bytes, letter.detail) for letter in found] == [
        (7, "not_protobuf", 3, "why"), (8, "not_protobuf", 6, "why"), (9, "empty", 0, "why"),
    ]  # fmt: skip
    assert found[0].coordinates == f"{topics.batches_topic}/1/7"
    assert [letter.offset for letter in letters(topics, reasons=["empty"])] == [9]


def test_a_replay_sends_what_was_there_and_says_what_it_is(topics: KafkaSettings) -> None:
    assert send_again(topics, letters(topics, reasons=["not_protobuf"])) == 2
    (one, key, headers), (three, _, _) = batches(topics)
    assert (one, three, key) == (b"one", b"three\xff", b"phone")
    assert headers[REPLAY_HEADER] == f"{topics.batches_topic}/1/7".encode()
    assert "content-type" in headers
    assert [(letter.offset, letter.replayed) for letter in letters(topics)] == [(7, True), (8, True), (9, False)]


def test_a_label_goes_back_to_the_labels(topics: KafkaSettings) -> None:
    settings = replace(topics, labels_topic=f"l{topics.batches_topic}")
    create_topics(settings.bootstrap_servers, {settings.labels_topic: 1})
    dead = KafkaDeadLetters(settings)
    at = {"topic": settings.labels_topic, "partition": "0", "offset": "4"}
    dead.send(b"label", key=b"phone", headers={"reason": "not_protobuf", "detail": "why", **at})
    dead.flush()
    dead.close()
    found = [letter for letter in letters(settings) if letter.topic == settings.labels_topic]
    assert send_again(settings, found) == 1
    ((value, _, headers),) = batches(replace(settings, batches_topic=settings.labels_topic))
    assert (value, headers["content-type"]) == (b"label", LABEL_CONTENT_TYPE.encode())
    assert not list(batches(settings))


def test_an_empty_topic_and_one_that_is_not_there(topics: KafkaSettings) -> None:
    nowhere = KafkaSettings(bootstrap_servers=topics.bootstrap_servers, deadletter_topic=topics.batches_topic)
    assert letters(nowhere) == []


def test_the_commands(topics: KafkaSettings, tmp_path: Path) -> None:
    names = {
        "KAFKA_BOOTSTRAP_SERVERS": topics.bootstrap_servers,
        "SENSORLOOP_KAFKA__BATCHES_TOPIC": topics.batches_topic,
        "SENSORLOOP_KAFKA__DEADLETTER_TOPIC": topics.deadletter_topic,
    }
    done = run(tmp_path, "deadletter", "list", "--limit", "2", **names)
    listed = json.loads(done.stdout)
    assert (listed["total"], len(listed["letters"]), listed["reasons"]) == (3, 2, {"not_protobuf": 2, "empty": 1})
    assert f"{topics.batches_topic}/1/7" in done.stderr
    assert "not_protobuf: why" in done.stderr
    first = answer(run(tmp_path, "deadletter", "replay", "--limit", "1", **names))
    assert (first["sent"], first["replayed_before"]) == (1, 0)
    rest = answer(run(tmp_path, "deadletter", "replay", **names))
    assert (rest["sent"], rest["replayed_before"]) == (2, 1)
    assert answer(run(tmp_path, "deadletter", "replay", **names))["sent"] == 0
    assert len(list(batches(topics))) == 3
    assert answer(run(tmp_path, "deadletter", "replay", "--again", "--reason", "empty", **names))["sent"] == 1
    assert len(list(batches(topics))) == 4
