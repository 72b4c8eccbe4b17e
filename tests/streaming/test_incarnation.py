"""Topics that were made anew under a lake that knows the old one: over fakes, and beside a real Kafka."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import kafka
import pytest
from kafka.admin import KafkaAdminClient

from streaming.client import KafkaSource
from streaming.errors import LogReplaced
from streaming.incarnation import require_no_return, require_same_topic, require_whole_log
from streaming.ingest import Ingest
from streaming.letters import KafkaDeadLetters
from streaming.offsets import TopicPartition
from streaming.settings import IngestSettings, KafkaSettings, LakeSettings
from streaming.status import Observer
from streaming.topics import create_topics
from streaming.verify import verify
from streaming.windows import WindowsTable
from streaming.wire import encode

from . import test_labels
from .ingesting import P0, P1, Rig, log, session
from .sessions import SETTINGS, batch
from .test_labels import L0, L1, label


@pytest.mark.parametrize(("noted", "found"), [(None, None), (None, 5), (5, None), (5, 5)])
def test_a_topic_is_another_only_if_both_ids_are_known_and_differ(noted: int | None, found: int | None) -> None:
    require_same_topic(P0, noted=noted, found=found)
    with pytest.raises(LogReplaced, match=r"sensor\.batches\[0\].*made anew.*\[lake\] uri"):
        require_same_topic(P0, noted=5, found=6)


def test_a_log_may_be_read_to_its_end_and_no_further() -> None:
    require_whole_log(P0, read_to=7, end=7)
    require_no_return(P0, read_to=7, came=7)
    with pytest.raises(LogReplaced, match=r"ends at offset 6, and was read up to 7"):
        require_whole_log(P0, read_to=7, end=6)
    with pytest.raises(LogReplaced, match=r"asked for offset 7, Kafka has begun again at 0"):
        require_no_return(P0, read_to=7, came=0)


@pytest.mark.parametrize("again", [0, 2, 8], ids=["empty", "shorter", "as long"])
def test_while_it_is_read(tmp_path: Path, again: int) -> None:
    """A topic that is deleted and made anew under a running consumer: nothing of it passes for what was read."""
    rig = Rig(tmp_path, {P0: log(session(9))})
    rig.until_caught_up()
    rig.logs[P0][:] = log(session(again, "other"))
    rig.quiet(4)
    with pytest.raises(LogReplaced, match=r"sensor\.batches\[0\]"):
        rig.until_caught_up()
    assert set(rig.rows()["session_id"]) == {"s1"}


def test_while_it_is_owned_and_not_read(tmp_path: Path) -> None:
    """The lake cannot be written, and so nothing is fetched, while the topic is made anew and grows longer than the old one was."""
    rig = Rig(tmp_path, {P0: log(session(5))})
    rig.source.topic_ids[P0.topic] = 1
    rig.until_caught_up()
    rig.ingest._backoff.failed(rig.clock())
    rig.ingest.step()
    assert rig.source.paused == {P0}
    rig.logs[P0][:] = log([*session(5), *session(4, "s2")])
    rig.source.topic_ids[P0.topic] = 2
    rig.quiet(40)
    with pytest.raises(LogReplaced, match="its id is another"):
        rig.until_caught_up()
    assert set(rig.rows()["session_id"]) == {"s1"}


def test_labels_while_they_are_owned_and_not_read(tmp_path: Path) -> None:
    rig = test_labels.Rig(tmp_path, {L0: test_labels.log([label(i) for i in range(5)])})
    rig.source.topic_ids[L0.topic] = 1
    rig.until_caught_up()
    rig.source.pause({L0})
    rig.logs[L0][:] = test_labels.log([label(i, "Run") for i in range(9)])
    rig.source.topic_ids[L0.topic] = 2
    for _ in range(9):
        if rig.source.paused and rig.ingest.refused:
            break
        rig.now += rig.settings.commit_interval / 9
        rig.ingest.step()
    rig.source.resume({L0})
    for _ in range(9):
        rig.now += rig.settings.commit_interval / 9
        rig.ingest.step()
    assert "its id is another" in rig.ingest.refused[L0]
    assert set(rig.rows()["scene"]) == {"Walk"}


@pytest.mark.parametrize("again", [0, 3])
def test_before_it_is_read_on(tmp_path: Path, again: int) -> None:
    rig = Rig(tmp_path, {P0: log(session(9))})
    rig.until_caught_up()
    rig.logs[P0][:] = log(session(again, "other"))
    rig.restart()
    with pytest.raises(LogReplaced):
        rig.until_caught_up()


def test_a_longer_one_is_known_by_its_id(tmp_path: Path) -> None:
    """Its offsets alone would pass for the next ones of the old topic."""
    rig = Rig(tmp_path, {P0: log(session(5))})
    rig.source.topic_ids[P0.topic] = 1
    rig.until_caught_up()
    rig.logs[P0][:] = log([*session(5), *session(4, "s2")])
    rig.restart()
    rig.source.topic_ids[P0.topic] = 2
    with pytest.raises(LogReplaced, match="its id is another"):
        rig.until_caught_up()
    assert set(rig.rows()["session_id"]) == {"s1"}


def test_a_mirror_that_keeps_the_offsets_is_accepted_once_and_then_noted(tmp_path: Path) -> None:
    rig = Rig(tmp_path, {P0: log(session(5))})
    rig.source.topic_ids[P0.topic] = 1
    rig.until_caught_up()
    rig.logs[P0] += [replace(r, offset=r.offset + 5) for r in log(session(4, "s2"))]
    settings, rig.settings = rig.settings, replace(rig.settings, accept_other_topic=True)
    rig.restart()
    rig.source.topic_ids[P0.topic] = 2
    rig.until_caught_up()
    assert rig.rows().height == 9
    rig.settings = settings
    rig.restart()
    rig.source.topic_ids[P0.topic] = 2
    rig.until_caught_up()
    rig.restart()
    rig.source.topic_ids[P0.topic] = 1
    with pytest.raises(LogReplaced):
        rig.until_caught_up()


def test_accepted_for_one_start_it_is_noted_of_every_partition_at_once(tmp_path: Path) -> None:
    """Also of one of which nothing comes during that start, and without waiting for the commit interval."""
    rig = Rig(tmp_path, {P0: log(session(5)), P1: log(session(3, "p1"))})
    rig.source.topic_ids[P0.topic] = 1
    rig.until_caught_up()
    before, settings = rig.rows(), rig.settings
    rig.settings = replace(settings, accept_other_topic=True)
    rig.restart()
    rig.source.topic_ids[P0.topic] = 2
    rig.ingest.step()
    rig.settings = settings
    rig.restart()
    rig.source.topic_ids[P0.topic] = 2
    commits = rig.until_caught_up().get("commits", 0)
    assert commits == 0, "there is nothing to note any more"
    assert rig.rows().equals(before)
    assert verify(str(tmp_path)).problems == ()


def test_of_labels_too(tmp_path: Path) -> None:
    rig = test_labels.Rig(tmp_path, {L0: test_labels.log([label(1)]), L1: test_labels.log([label(2)])})
    rig.source.topic_ids[L0.topic] = 1
    rig.until_caught_up()
    settings = rig.settings
    rig.settings = replace(settings, accept_other_topic=True)
    rig.restart()
    rig.source.topic_ids[L0.topic] = 2
    for _ in range(2):
        rig.ingest.step()
    rig.settings = settings
    rig.restart()
    rig.source.topic_ids[L0.topic] = 2
    assert "label_commits" not in rig.until_caught_up()
    assert not rig.ingest.refused
    assert rig.proof().problems == ()


def test_a_lake_of_before_there_were_ids_notes_the_first_that_it_sees(tmp_path: Path) -> None:
    rig = Rig(tmp_path, {P0: log(session(5))})
    rig.until_caught_up()
    rig.logs[P0] += [replace(r, offset=r.offset + 5) for r in log(session(4, "s2"))]
    for topic_id in (1, 1):
        rig.restart()
        rig.source.topic_ids[P0.topic] = topic_id
        rig.until_caught_up()
    rig.restart()
    rig.source.topic_ids[P0.topic] = 2
    with pytest.raises(LogReplaced):
        rig.until_caught_up()


@pytest.mark.parametrize("again", [0, 2, 5])
def test_labels_too(tmp_path: Path, again: int) -> None:
    rig = test_labels.Rig(tmp_path, {L0: test_labels.log([label(i) for i in range(5)])})
    rig.source.topic_ids[L0.topic] = 1
    rig.until_caught_up()
    rig.logs[L0][:] = test_labels.log([label(i, "Run") for i in range(again)])
    rig.restart()
    rig.source.topic_ids[L0.topic] = 1 if again < 5 else 2
    rig.until_caught_up()
    assert "made anew" in rig.ingest.refused[L0]
    assert set(rig.rows()["scene"]) == {"Walk"}


@pytest.fixture
def anew(bootstrap_servers: str, new_topic: Callable[[int], str]) -> KafkaSettings:
    return KafkaSettings(
        bootstrap_servers=bootstrap_servers, batches_topic=new_topic(1), labels_topic=new_topic(1), deadletter_topic=new_topic(1),
        group_id=f"g-{uuid.uuid4().hex}",
    )  # fmt: skip


def _send(settings: KafkaSettings, session_id: str, count: int) -> None:
    producer = kafka.KafkaProducer(bootstrap_servers=settings.bootstrap_servers, acks="all")
    for number in range(count):
        value = encode(batch(number, session=session_id, device="d1", end=number == count - 1))
        producer.send(settings.batches_topic, value=value, key=b"d1")
    producer.flush()
    producer.close()


def _make_anew(settings: KafkaSettings) -> None:
    """Delete the topic of batches, and make another of its name once it is gone: deleting goes on after the answer."""
    admin, topic = KafkaAdminClient(bootstrap_servers=settings.bootstrap_servers), settings.batches_topic
    try:
        admin.delete_topics([topic])
        deadline = time.monotonic() + 30
        while topic in admin.list_topics():
            assert time.monotonic() < deadline, f"{topic} is still there"
            time.sleep(0.05)  # polling a real broker
    finally:
        admin.close()
    create_topics(settings.bootstrap_servers, {topic: 1})


@pytest.mark.broker
def test_while_it_is_paused_beside_a_real_kafka(anew: KafkaSettings) -> None:
    """Nothing is fetched, so that no answer tells; and Kafka's client takes what it knows of topics for true for five minutes."""
    one = TopicPartition(topic=anew.batches_topic, partition=0)
    _send(anew, "s1", 4)
    with ExitStack() as stack:
        source = KafkaSource(anew, IngestSettings())
        stack.callback(source.close)
        while not source.poll(0.1).records:
            pass
        before = source.topic_id(one.topic)
        source.pause({one})
        source.poll(0.1)
        _make_anew(anew)
        _send(anew, "s2", 9)
        source.poll(0.1)
        source.resume({one})
        while not source.poll(0.1).records:
            pass
        assert source.topic_id(one.topic) not in {None, before}, "when its records come it is known that it is another"


@pytest.mark.broker
def test_a_topic_made_anew_and_longer_is_refused_beside_a_real_kafka(anew: KafkaSettings, tmp_path: Path) -> None:
    lake, settings = LakeSettings(uri=str(tmp_path)), IngestSettings(commit_rows=2)

    def read() -> None:
        with ExitStack() as stack:
            source, letters = KafkaSource(anew, settings), KafkaDeadLetters(anew)
            stack.callback(source.close)
            stack.callback(letters.close)
            ingest = Ingest(
                source=source, table=WindowsTable(lake, SETTINGS.sensors), dead_letters=letters, windows=SETTINGS, settings=settings
            )  # fmt: skip
            ingest.run(stop=ingest.caught_up)

    _send(anew, "s1", 4)
    read()
    _make_anew(anew)
    _send(anew, "s2", 9)
    with pytest.raises(LogReplaced, match="its id is another"):
        read()
    observer = Observer(anew, lake)
    status = observer.look()
    observer.close()
    assert [(each.replaced, each.other_topic, each.refused, each.lag) for each in status.partitions] == [
        (True, True, None, 9)
    ]
    assert status.partitions[0].valid_through != status.at, "what is in it is not in the lake"
