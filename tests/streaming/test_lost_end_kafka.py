"""A real broker whose disk is restored from a backup: its log has lost its end, and grows again before anybody reads it."""

from __future__ import annotations

import shutil
import uuid
from contextlib import ExitStack
from pathlib import Path

import kafka
import pytest

from streaming import broker, ports
from streaming.client import KafkaSource
from streaming.errors import LogReplaced
from streaming.ingest import Ingest
from streaming.letters import KafkaDeadLetters
from streaming.offsets import TopicPartition
from streaming.refusals import accept
from streaming.settings import BrokerSettings, IngestSettings, KafkaSettings, LakeSettings
from streaming.tables import WINDOWS
from streaming.topics import create_topics
from streaming.verify import verify
from streaming.windows import WindowsTable

from .ingesting import log, session
from .sessions import SETTINGS


@pytest.mark.broker
@pytest.mark.slow
def test_it_is_refused_over_restarts_until_it_is_accepted(tmp_path: Path) -> None:
    home, backup = tmp_path / "home", tmp_path / "backup"
    port, controller = ports.free_ports(2)
    local = BrokerSettings(port=port, controller_port=controller, heap_mb=256)
    settings = KafkaSettings(bootstrap_servers=f"127.0.0.1:{port}", group_id=f"g-{uuid.uuid4().hex}", partitions=1)
    lake, ingest = LakeSettings(uri=str(tmp_path / "lake")), IngestSettings()
    one = TopicPartition(topic=settings.batches_topic, partition=0)

    def send(name: str, seconds: int) -> None:
        producer = kafka.KafkaProducer(bootstrap_servers=settings.bootstrap_servers, acks="all")
        for record in log(session(seconds, name)):
            producer.send(one.topic, value=record.value, partition=0)
        producer.flush()
        producer.close()

    def read() -> int:
        with ExitStack() as stack:
            source, letters = KafkaSource(settings, ingest), KafkaDeadLetters(settings)
            stack.callback(source.close)
            stack.callback(letters.close)
            table = WindowsTable(lake, SETTINGS.sensors)
            loop = Ingest(source=source, table=table, dead_letters=letters, windows=SETTINGS, settings=ingest)
            loop.run(stop=loop.caught_up)
            return loop.counters().get("records", 0)

    with ExitStack() as stack:
        stack.callback(broker.stop, home)

        def start() -> None:
            broker.start(local, home=home, die_with_parent=True)

        start()
        create_topics(settings, {settings.batches_topic: 1, settings.deadletter_topic: 1})
        send("s1", 6)
        (folder,) = home.rglob(f"{one.topic}-0")
        shutil.copytree(folder, backup, ignore=shutil.ignore_patterns("*index"))  # which Kafka makes anew
        send("s2", 3)
        assert read() == 9
        broker.stop(home)
        shutil.rmtree(folder)
        shutil.copytree(backup, folder)
        start()
        send("s3", 9)
        for _ in range(2):
            with pytest.raises(LogReplaced, match=r"offset 6|begun again at 6"):
                read()
        accept(lake, WINDOWS, one, by="ana")
        assert read() == 6, "3 of 9 were passed over, and nothing is refused any more"
    assert verify(lake).problems == ()
