"""Ingestion against a real broker: the client seam, and processes that are really killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from datetime import timedelta
from pathlib import Path

import kafka
import polars as pl
import pytest

from streaming.client import KafkaSource
from streaming.errors import ClientError
from streaming.ingest import Ingest
from streaming.lake import scan_windows
from streaming.letters import KafkaDeadLetters
from streaming.settings import IngestSettings, KafkaSettings, LakeSettings
from streaming.topics import create_topics
from streaming.verify import verify
from streaming.windows import WindowsTable
from streaming.wire import SensorBatch, encode

from .sessions import SETTINGS, batch

pytestmark = pytest.mark.broker


def batches(sessions: int = 6, seconds: int = 12) -> list[SensorBatch]:
    return [
        batch(i, session=f"s{s}", device=f"d{s}", end=i == seconds - 1) for i in range(seconds) for s in range(sessions)
    ]


@pytest.fixture
def topic(bootstrap_servers: str) -> KafkaSettings:
    """Topics of this test alone, with batches in them."""
    name = uuid.uuid4().hex[:8]
    settings = KafkaSettings(
        bootstrap_servers=bootstrap_servers,
        group_id=f"g-{name}",
        batches_topic=f"b-{name}",
        deadletter_topic=f"x-{name}",
    )
    create_topics(bootstrap_servers, {settings.batches_topic: 2, settings.deadletter_topic: 1})
    producer = kafka.KafkaProducer(bootstrap_servers=bootstrap_servers, acks="all")
    for b in batches():
        producer.send(settings.batches_topic, value=encode(b), key=b.device_id.encode())
    producer.send(settings.batches_topic, value=b"poison", key=b"d0").get(timeout=10)
    producer.flush()
    producer.close()
    return settings


def loop(settings: KafkaSettings, folder: Path) -> tuple[Ingest, KafkaSource, KafkaDeadLetters]:
    source, letters = KafkaSource(settings, IngestSettings()), KafkaDeadLetters(settings)
    table = WindowsTable(LakeSettings(uri=str(folder)), SETTINGS.sensors)
    ingest = Ingest(
        source=source, table=table, dead_letters=letters, windows=SETTINGS,
        settings=IngestSettings(commit_rows=5, max_poll_records=20, commit_interval=timedelta(seconds=5)),
    )  # fmt: skip
    return ingest, source, letters


def rows(folder: Path) -> pl.DataFrame:
    return scan_windows(str(folder)).drop("ingested_at", "next_sequence").sort("window_id").collect()


def drain(settings: KafkaSettings, folder: Path) -> dict[str, int]:
    ingest, source, letters = loop(settings, folder)
    try:
        ingest.run(stop=ingest.caught_up)
    finally:
        source.close()
        letters.close()
    return ingest.counters()


def test_a_topic_becomes_a_table_and_poison_a_dead_letter(topic: KafkaSettings, tmp_path: Path) -> None:
    counters = drain(topic, tmp_path)
    assert counters["samples"] == rows(tmp_path)["acc_fresh"].sum() == 6 * 12 * 25
    assert counters["dead_letters_not_protobuf"] == 1
    consumer = kafka.KafkaConsumer(
        topic.deadletter_topic,
        bootstrap_servers=topic.bootstrap_servers,
        auto_offset_reset="earliest",
        consumer_timeout_ms=5000,
    )
    letter = next(consumer)
    consumer.close()
    assert letter.value == b"poison"
    headers = dict(letter.headers)
    assert headers["topic"] == topic.batches_topic.encode()
    assert headers["reason"] == b"not_protobuf"
    assert int(headers["offset"]) > 0


def test_a_second_run_adds_nothing(topic: KafkaSettings, tmp_path: Path) -> None:
    drain(topic, tmp_path)
    before = rows(tmp_path)
    assert "rows" not in drain(topic, tmp_path)
    assert rows(tmp_path).equals(before)


_CHILD = """
import os, signal, sys
from datetime import timedelta
from pathlib import Path
from streaming.faults import hooked
from streaming.settings import KafkaSettings
from tests.streaming.test_ingest_kafka import drain
point, count, calls = sys.argv[4], int(sys.argv[5]), iter(range(1000))
def killed(reached):
    if reached == point and next(calls) == count:
        os.kill(os.getpid(), signal.SIGKILL)
with hooked(killed):
    drain(KafkaSettings(bootstrap_servers=sys.argv[1], group_id=sys.argv[2], batches_topic="b-" + sys.argv[2][2:],
                        deadletter_topic="x-" + sys.argv[2][2:], session_timeout=timedelta(seconds=6)), Path(sys.argv[3]))
"""


def test_killed_before_and_after_commits_the_rows_are_those_of_an_undisturbed_run(
    topic: KafkaSettings, tmp_path: Path
) -> None:
    """kill -9 once the files are written, and once they are committed; then another process takes over."""
    for point, count in (("publish.files", 0), ("publish.checked", 0), ("publish.committed", 0)):
        argv = [topic.bootstrap_servers, topic.group_id, str(tmp_path / "storm"), point, str(count)]
        killed = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", _CHILD, *argv], check=False, cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}, timeout=120,
        )  # fmt: skip
        assert killed.returncode == -signal.SIGKILL
    drain(topic, tmp_path / "storm")
    calm = KafkaSettings(
        bootstrap_servers=topic.bootstrap_servers, group_id=f"{topic.group_id}-calm", batches_topic=topic.batches_topic,
        deadletter_topic=topic.deadletter_topic,
    )  # fmt: skip
    drain(calm, tmp_path / "calm")
    assert rows(tmp_path / "storm").equals(rows(tmp_path / "calm"))
    assert verify(str(tmp_path / "storm")).problems == ()


def test_two_consumers_share_the_partitions(topic: KafkaSettings, tmp_path: Path) -> None:
    """The second joins while the first is at work; what either publishes is what one alone would have."""
    first, one, letters = loop(topic, tmp_path)
    second, two, more_letters = loop(topic, tmp_path)
    try:
        for _ in range(400):
            first.step()
            second.step()
            counted = first.counters(), second.counters()
            if all(c.get("assignments", 0) > 0 for c in counted) and first.caught_up() and second.caught_up():
                break
        first.commit()
        second.commit()
    finally:
        for closing in (one, two, letters, more_letters):
            closing.close()
    assert rows(tmp_path)["acc_fresh"].sum() == 6 * 12 * 25
    assert rows(tmp_path)["window_id"].is_unique().all()


def test_a_poll_outlives_the_broker_that_it_asks(topic: KafkaSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """kafka-python raises where that broker was to say who the coordinator is; what it cannot do at all is still an error."""
    source = KafkaSource(topic, IngestSettings())
    try:
        poll, failures = source._consumer.poll, iter([kafka.errors.KafkaConnectionError("111 ECONNREFUSED")])

        def refused(**options: object) -> object:
            for failure in failures:
                raise failure
            return poll(**options)

        monkeypatch.setattr(source._consumer, "poll", refused)
        assert not source.poll(0.1).records
        deadline = time.monotonic() + 30
        while not source.poll(0.1).assigned and time.monotonic() < deadline:
            pass
        assert time.monotonic() < deadline
        failures = iter([kafka.errors.TopicAuthorizationFailedError("b")])
        with pytest.raises(kafka.errors.TopicAuthorizationFailedError):
            source.poll(0.1)
    finally:
        source.close()


def test_no_broker_is_a_clear_error() -> None:
    settings = KafkaSettings(bootstrap_servers="127.0.0.1:1", bootstrap_timeout=timedelta(seconds=1))
    with pytest.raises(ClientError, match=r"127.0.0.1:1 cannot be reached.*sensorloop kafka start"):
        KafkaSource(settings, IngestSettings())
