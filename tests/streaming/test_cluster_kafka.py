"""Ingestion beside a cluster of three brokers that are killed: real processes, kill -9."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import kafka
import polars as pl
import pytest

from streaming.cluster import Cluster
from streaming.label_wire import SceneLabel, encode_label
from streaming.lake import labels_version, scan_labels
from streaming.settings import KafkaSettings
from streaming.topics import create_topics
from streaming.verify import verify

from .consumers import ROOT, Consumer, Phones, environment, seen, settled, topics, until
from .sessions import EPOCH

pytestmark = [
    pytest.mark.broker,
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore::pytest.PytestUnraisableExceptionWarning"
    ),  # kafka-python, which finds a broker gone
]

_LOSES_AN_ANSWER = """
import sys
import sensorloop
from streaming import delta
theirs, answers = delta._DeltaTable.create_write_transaction, iter(range(1000))
def lost(self, *arguments, **options):
    theirs(self, *arguments, **options)
    if next(answers) == 0:
        raise OSError("the answer was lost")
delta._DeltaTable.create_write_transaction = lost
sys.argv = ["sensorloop", "ingest"]
sensorloop.main()
"""

_KILLED_AT = """
import os, signal, sys
from streaming.faults import hooked
import sensorloop
def killed(reached):
    if reached == os.environ["POINT"]:
        os.kill(os.getpid(), signal.SIGKILL)
with hooked(killed):
    sys.argv = ["sensorloop", "ingest"]
    sensorloop.main()
"""


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """So that the sockets that kafka-python leaves behind are not found in another test."""
    yield
    gc.collect()


def test_the_coordinator_is_killed_and_ingestion_goes_on(
    kafka_cluster: Cluster, tmp_path: Path, started: list[Consumer]
) -> None:
    settings = topics(kafka_cluster.bootstrap_servers)
    phones = Phones(settings, 4)
    consumer = Consumer(settings, tmp_path)
    started.append(consumer)
    for _ in range(20):
        phones.send()
    phones.producer.flush()
    until(lambda: seen(tmp_path) > 0)
    killed = kafka_cluster.coordinator(settings.group_id)
    kafka_cluster.kill([killed])
    for second in range(20):
        phones.send(last=second == 19)
    phones.close()
    until(lambda: seen(tmp_path) == phones.samples)
    assert kafka_cluster.coordinator(settings.group_id) != killed
    kafka_cluster.start()
    counted = consumer.stop()
    assert counted["records"] >= 160, consumer.told()
    settled(tmp_path, phones.samples)


def test_all_brokers_are_down_and_ingestion_waits_for_them(
    kafka_cluster: Cluster, tmp_path: Path, started: list[Consumer]
) -> None:
    """For longer than the session time-out of 6 s: when they are back, nobody knows the consumer any more."""
    settings = topics(kafka_cluster.bootstrap_servers)
    phones = Phones(settings, 4)
    for _ in range(20):
        phones.send()
    phones.close()
    consumer = Consumer(settings, tmp_path)
    started.append(consumer)
    until(lambda: seen(tmp_path) > 0)
    before = seen(tmp_path)
    kafka_cluster.kill()
    gone = time.monotonic()
    consumer.wait_told("Kafka does not answer")
    time.sleep(max(0.0, 8 - (time.monotonic() - gone)))  # this is the outage, and the brokers take a while to come back
    kafka_cluster.start()
    consumer.wait_told("Kafka answers again")
    later = Phones(settings, 4)
    later.second = 20
    for second in range(20):
        later.send(last=second == 19)
    later.close()
    until(lambda: seen(tmp_path) == later.samples)
    assert before < seen(tmp_path)
    consumer.stop()
    settled(tmp_path, later.samples)


def test_a_commit_whose_answer_is_lost_is_not_doubled(
    kafka_cluster: Cluster, tmp_path: Path, started: list[Consumer]
) -> None:
    """It took effect, the process sees an error, asks the cluster who it is, and goes on from what is in the table."""
    settings = topics(kafka_cluster.bootstrap_servers)
    consumer = Consumer(settings, tmp_path, program=_LOSES_AN_ANSWER)
    started.append(consumer)
    phones = Phones(settings, 4)
    for second in range(30):
        phones.send(last=second == 29)
    phones.close()
    until(lambda: seen(tmp_path) == phones.samples)
    counted = consumer.stop()
    assert "the answer was lost" in consumer.told()
    assert counted["failed_tries"] == 1
    settled(tmp_path, phones.samples)


def test_labels_survive_a_kill_at_every_step_of_their_commit(bootstrap_servers: str, tmp_path: Path) -> None:
    """Each process has a group of its own, so that none has to wait until Kafka misses the one before: the table says where to read."""
    name = uuid.uuid4().hex[:8]
    settings = KafkaSettings(
        bootstrap_servers=bootstrap_servers, group_id=f"g-{name}", batches_topic=f"b-{name}", labels_topic=f"l-{name}",
        deadletter_topic=f"x-{name}",
    )  # fmt: skip
    create_topics(
        bootstrap_servers, {settings.batches_topic: 1, settings.labels_topic: 2, settings.deadletter_topic: 1}
    )
    sent = [
        SceneLabel(device_id=f"d{i % 5}", start_ns=EPOCH + i, end_ns=EPOCH + i + 1, scene="Walk", said_by="ana", said_ns=EPOCH + i)
        for i in range(60)
    ]  # fmt: skip
    producer = kafka.KafkaProducer(bootstrap_servers=bootstrap_servers, acks="all")
    for at, label in enumerate(sent):
        producer.send(settings.labels_topic, value=encode_label(label), partition=at % 2)
    producer.flush()
    producer.close()
    for point in ("publish.files", "publish.checked", "publish.committed", ""):
        argv = ["-c", _KILLED_AT] if point else ["-m", "sensorloop", "ingest", "--until-caught-up"]
        done = subprocess.run(
            [sys.executable, *argv], cwd=tmp_path, check=False, capture_output=True, text=True, timeout=60,
            env={
                **os.environ, "PYTHONPATH": str(ROOT), "SENSORLOOP_HOME": str(tmp_path), "OMP_NUM_THREADS": "1", "POINT": point,
                **environment(replace(settings, group_id=f"{settings.group_id}-{point or 'last'}")),
                "SENSORLOOP_KAFKA__LABELS_TOPIC": settings.labels_topic, "SENSORLOOP_INGEST__COMMIT_INTERVAL": "PT0.5S",
            },
        )  # fmt: skip
        assert done.returncode == (-signal.SIGKILL if point else 0), done.stderr
    lake = str(tmp_path / "lake")
    found = scan_labels(lake, labels_version(lake)).select("start_ns", "kafka_partition", "kafka_offset").collect()
    assert sorted(found["start_ns"]) == [label.start_ns for label in sent]
    assert found.select(pl.struct("kafka_partition", "kafka_offset").is_unique().all()).item()
    proof = verify(lake, "labels")
    assert proof.problems == ()
