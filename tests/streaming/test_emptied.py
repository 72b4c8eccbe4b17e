"""Offsets at which Kafka has no record: what retention deleted, and the markers of transactions. Nothing is left to read there."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import kafka
import pytest
from kafka.admin import KafkaAdminClient

from streaming.client import KafkaSource
from streaming.ingest import Ingest
from streaming.label_wire import encode_label
from streaming.labels import LabelIngest
from streaming.labels_table import LabelsTable
from streaming.letters import KafkaDeadLetters
from streaming.log import read_log
from streaming.progress import Progress
from streaming.settings import IngestSettings, KafkaSettings, LakeSettings, WindowSettings
from streaming.storage import Storage
from streaming.tables import WINDOWS
from streaming.verify import verify
from streaming.windows import WindowsTable

from . import test_labels
from .ingesting import P0, P1, Rig, log, session
from .sessions import SETTINGS
from .test_labels import L0, label
from .test_refusals import moved


def absent(folder: Path) -> int:
    storage = Storage(str(folder), WINDOWS)
    return sum(a.absent for commit in read_log(storage, storage.files()) for a in commit.accounts.values())


def steps(rig: Rig) -> Progress:
    """As many as do, and no more: one that never ends is what is looked for."""
    seen: list[Progress] = []
    rig.ingest._watch = seen.append
    for _ in range(20):
        if rig.ingest.caught_up():
            break
        rig.clock.advance(2)
        rig.ingest.step()
    assert rig.ingest.caught_up()
    rig.ingest.run(stop=lambda: True)
    return seen[-1]


@pytest.mark.parametrize("read_before", [0, 5], ids=["never read", "read before"])
def test_a_partition_that_retention_has_emptied_is_read_to_its_end(tmp_path: Path, read_before: int) -> None:
    rig = Rig(tmp_path, {P0: log(session(5)[:read_before]), P1: log(session(3, "p1"))})
    rig.until_caught_up()
    rig.logs[P0].clear()
    rig.restart()
    rig.source.begins[P0] = 1_000
    (emptied, _) = sorted(steps(rig).partitions, key=lambda each: each.partition.partition)
    assert (emptied.position, emptied.lag) == (1_000, 0)
    assert emptied.valid_through_ns == int(rig.clock().timestamp()) * 10**9, "nothing is left that is not in the lake"
    assert absent(tmp_path) == 1_000 - read_before, "they are accounted for"
    rig.logs[P0] += moved(log(session(4, "s2")), 1_000)
    steps(rig)
    assert rig.rows().filter(session_id="s2").height == 4
    assert verify(str(tmp_path)).problems == ()


def test_labels_too(tmp_path: Path) -> None:
    rig = test_labels.Rig(tmp_path, {L0: []})
    rig.source.begins[L0] = 1_000
    for _ in range(9):
        rig.now += rig.settings.commit_interval / 30
        rig.ingest.step()
    assert rig.ingest.caught_up()
    rig.logs[L0] += moved(test_labels.log([label(1)]), 1_000)
    rig.now += rig.settings.commit_interval
    rig.ingest.step()
    rig.ingest.commit()
    assert rig.rows()["kafka_offset"].to_list() == [1_000]
    assert rig.proof().problems == ()


@pytest.mark.broker
@pytest.mark.parametrize("why", ["retention", "transaction"])
def test_beside_a_real_kafka(bootstrap_servers: str, new_topic: Callable[[int], str], tmp_path: Path, why: str) -> None:
    """Both loops, until they say that they have read all: records that were deleted before; and the marker that ends a transaction."""
    settings = KafkaSettings(
        bootstrap_servers=bootstrap_servers, batches_topic=new_topic(1), labels_topic=new_topic(1), deadletter_topic=new_topic(1),
        group_id=f"g-{uuid.uuid4().hex}",
    )  # fmt: skip
    topics = (settings.batches_topic, settings.labels_topic)
    transactional = {"transactional_id": uuid.uuid4().hex} if why == "transaction" else {}
    producer = kafka.KafkaProducer(bootstrap_servers=bootstrap_servers, acks="all", **transactional)
    if transactional:
        producer.init_transactions()
        producer.begin_transaction()
    for record in log(session(3)):
        producer.send(topics[0], value=record.value, key=b"d1")
    producer.send(topics[1], value=encode_label(label(1)), key=b"d1")
    producer.flush()
    if transactional:
        producer.commit_transaction()
    else:
        admin = KafkaAdminClient(bootstrap_servers=bootstrap_servers)
        admin.delete_records({kafka.TopicPartition(topics[0], 0): 3, kafka.TopicPartition(topics[1], 0): 1})
        admin.close()
    producer.close()
    lake, ingest = LakeSettings(uri=str(tmp_path)), IngestSettings()
    seen: list[Progress] = []
    with ExitStack() as stack:
        letters = KafkaDeadLetters(settings)
        source, other = KafkaSource(settings, ingest), KafkaSource(settings, ingest, topic=topics[1])
        for each in (letters, source, other):
            stack.callback(each.close)
        said = LabelIngest(
            source=other, table=LabelsTable(lake), dead_letters=letters, windows=WindowSettings(), settings=ingest
        )
        table = WindowsTable(lake, SETTINGS.sensors)
        loop = Ingest(
            source=source, table=table, dead_letters=letters, windows=SETTINGS, settings=ingest, watch=seen.append
        )
        loop.run(stop=lambda: loop.caught_up() and said.caught_up(), beside=said)
    kept = 0 if why == "retention" else 3
    assert (loop.counters().get("rows", 0), said.counters().get("labels", 0)) == (kept, kept // 3)
    assert seen[-1].lag == 0
    assert verify(str(tmp_path)).problems == ()
