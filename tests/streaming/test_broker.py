"""The local broker: a real Kafka, and every way in which it cannot be one."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from kafka import KafkaConsumer, KafkaProducer
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient

from streaming import artifacts, broker, broker_data, guard, ports, process
from streaming.broker import BrokerSettings
from streaming.errors import BrokerError, ChecksumError, ForeignData, PortTaken
from tests.fixtures.kafka import LocalBroker

pytestmark = pytest.mark.broker


@pytest.fixture
def settings() -> BrokerSettings:
    port, controller_port = ports.free_ports(2)
    return BrokerSettings(port=port, controller_port=controller_port)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home with a name that is hard on Java; whatever broker runs there is stopped."""
    folder = tmp_path / "hö me, #1"
    yield folder
    broker.stop(folder)


def data_of(home: Path, cluster_id: str | None) -> Path:
    """A data folder as a Kafka cluster leaves it, or of no cluster at all."""
    data = home / "kafka" / "data"
    data.mkdir(parents=True)
    (data / "photos.zip").touch()
    if cluster_id is not None:
        (data / "meta.properties").write_text(f"#\nversion=1\ncluster.id={cluster_id}\nnode.id=2\n", encoding="utf-8")
    return data


def test_it_runs_and_says_so(local_broker: LocalBroker) -> None:
    status = broker.status(local_broker.home)
    assert status is not None
    assert status.answers
    assert status.bootstrap_servers == local_broker.bootstrap_servers == f"127.0.0.1:{local_broker.settings.port}"
    assert psutil.pid_exists(status.pid)
    assert 100 << 20 < status.memory_bytes < 1 << 30
    assert timedelta(0) <= status.uptime < timedelta(hours=1)
    with KafkaAdminClient(bootstrap_servers=status.bootstrap_servers) as admin:
        assert admin.describe_cluster()["cluster_id"] == status.cluster_id


def test_starting_it_again_changes_nothing(local_broker: LocalBroker) -> None:
    before = broker.status(local_broker.home)
    elsewhere = replace(local_broker.settings, port=1, controller_port=2)
    again, started = broker.start(elsewhere, home=local_broker.home)
    assert not started
    assert before is not None
    assert (again.pid, again.bootstrap_servers) == (before.pid, before.bootstrap_servers)


def test_what_is_produced_is_consumed(new_topic: Callable[[int], str], bootstrap_servers: str) -> None:
    topic = new_topic(3)
    sent = {f"{number}".encode() for number in range(300)}
    producer = KafkaProducer(bootstrap_servers=bootstrap_servers)
    # A recording of 2018 is replayed with today's timestamps, but not everybody is us.
    for value in sent:
        producer.send(topic, value, key=value, timestamp_ms=1_514_764_800_000)
    producer.flush()
    producer.close()
    consumer = KafkaConsumer(
        topic,
        bootstrap_servers=bootstrap_servers,
        group_id=topic,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    got: list[bytes] = []
    while len(got) < len(sent):
        got += [record.value for records in consumer.poll(1000).values() for record in records]
    consumer.close()
    assert sorted(got) == sorted(sent)


def test_nothing_is_deleted_and_no_topic_is_made_by_accident(
    new_topic: Callable[[int], str], bootstrap_servers: str
) -> None:
    topic = new_topic(1)
    with KafkaAdminClient(bootstrap_servers=bootstrap_servers) as admin:
        found = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)], config_filter="all")
        config = found["topic"][topic]
        assert {config[key]["value"] for key in ("retention.ms", "retention.bytes")} == {"-1"}
        assert admin.describe_topics(["test.misspelt"])[0]["error_code"] != 0
        assert "test.misspelt" not in admin.list_topics()


@pytest.mark.slow
def test_its_whole_life(settings: BrokerSettings, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Started from KAFKA_HOME, hanging, killed, started again with its data, stopped."""
    pins = artifacts.read_pins()
    jars = artifacts.fetch(pins, artifacts.cache_folder(pins))
    unpacked = home / "kafka_2.13"
    unpacked.mkdir(parents=True)
    (unpacked / "libs").symlink_to(jars[0].parent)
    environ = {**os.environ, "KAFKA_HOME": str(unpacked), "XDG_CACHE_HOME": str(home / "nothing here")}
    assert broker.status(home) is None
    assert not broker.stop(home)

    first, started = broker.start(settings, home=home, environ=environ, die_with_parent=True)
    assert started
    assert first.answers

    java = [member for member in process.family(psutil.Process(first.pid)) if "java" in member.name()]
    java[0].suspend()
    monkeypatch.setattr(broker, "_PROBE_S", 0.2)
    monkeypatch.setattr(broker, "_PATIENT_PROBE_S", 0.2)
    # Stopping a hundred threads takes a moment, in which it may still answer.
    while (hanging := broker.status(home)) is not None and hanging.answers:
        pass
    assert hanging is not None
    with pytest.raises(BrokerError, match=rf"pid {first.pid}\) but does not answer .*sensorloop kafka stop"):
        broker.start(settings, home=home, environ=environ)
    monkeypatch.undo()

    java[0].kill()
    assert guard.wait_gone([*java, psutil.Process(first.pid)], 20, reap=process._reap)
    assert broker.status(home) is None

    second, started = broker.start(settings, home=home, environ=environ, die_with_parent=True)
    assert started
    assert second.pid != first.pid
    assert second.cluster_id == first.cluster_id
    assert broker.stop(home)
    assert not psutil.pid_exists(second.pid)
    assert not broker.stop(home)
    assert "[BrokerServer id=1] shut down completed" in (home / "kafka" / "broker.log").read_text(encoding="utf-8")


def test_one_that_dies_at_start_shows_its_last_words(
    settings: BrokerSettings, home: Path, local_broker: LocalBroker
) -> None:
    data_of(home, "ours")
    (home / "kafka" / "cluster-id").write_text("ours\n", encoding="ascii")
    with pytest.raises(
        BrokerError, match=r"(?s)Kafka ended \(exit code 1\) before it was ready.*broker\.log:\n"
    ) as caught:
        broker.start(settings, home=home)
    assert "meta.properties" in str(caught.value)
    assert "\tat " not in str(caught.value)
    assert broker.status(home) is None


def test_one_that_cannot_be_formatted_says_why(settings: BrokerSettings, home: Path, local_broker: LocalBroker) -> None:
    with pytest.raises(BrokerError, match=r"(?s)kafka/data cannot be formatted: .*heap"):
        broker.start(replace(settings, heap_mb=0), home=home)
    assert not (home / "kafka" / "data").exists()


@pytest.mark.parametrize("which", ["port", "controller_port"])
def test_a_taken_port_is_named_with_its_owner_and_setting(settings: BrokerSettings, home: Path, which: str) -> None:
    with socket.create_server(("127.0.0.1", getattr(settings, which))), pytest.raises(PortTaken) as caught:
        broker.start(settings, home=home)
    for part in (
        f"127.0.0.1:{getattr(settings, which)}",
        f"process {os.getpid()}",
        f"[broker] {which} in sensorloop.toml",
    ):
        assert part in str(caught.value)
    assert not (home / "kafka" / "data").exists()


@pytest.mark.parametrize("which", ["port", "controller_port"])
def test_a_port_that_is_taken_while_it_starts_is_named_as_well(
    settings: BrokerSettings, home: Path, local_broker: LocalBroker, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    """Two that begin at once both find it free."""
    start = process.start
    with ExitStack() as held:

        def second(*args: Any, **named: Any) -> None:
            held.enter_context(socket.create_server(("127.0.0.1", getattr(settings, which))))
            start(*args, **named)

        monkeypatch.setattr(process, "start", second)
        with pytest.raises(PortTaken, match=rf"process {os.getpid()} has it .*\[broker\] {which} in sensorloop.toml"):
            broker.start(settings, home=home)
    assert broker.status(home) is None


@pytest.mark.parametrize(
    ("theirs", "ours", "message"),
    [
        ("AAAA", "BBBB", "Kafka cluster AAAA, but ours is BBBB"),
        ("AAAA", None, "Kafka cluster AAAA, but we have formatted none here"),
        (None, "BBBB", "no Kafka cluster, but ours is BBBB"),
        (None, None, "no Kafka cluster, but we have formatted none here"),
    ],
)
def test_a_foreign_data_folder_is_left_alone(
    settings: BrokerSettings, home: Path, theirs: str | None, ours: str | None, message: str
) -> None:
    data = data_of(home, theirs)
    if ours is not None:
        (home / "kafka" / "cluster-id").write_text(f"{ours}\n", encoding="ascii")
    before = {path: path.stat().st_mtime_ns for path in data.iterdir()}
    with pytest.raises(ForeignData, match=rf"{message}.*SENSORLOOP_HOME") as caught:
        broker.start(settings, home=home)
    assert str(data) in str(caught.value)
    assert {path: path.stat().st_mtime_ns for path in data.iterdir()} == before


def test_a_changed_jar_is_not_loaded(settings: BrokerSettings, home: Path, tmp_path: Path) -> None:
    pins = artifacts.read_pins()
    cache = artifacts.cache_folder(pins, {"XDG_CACHE_HOME": str(tmp_path)})
    cache.mkdir(parents=True)
    jar = cache / pins.artifacts[0].filename
    jar.write_bytes(b"changed")
    with pytest.raises(ChecksumError, match=f"{jar}.*{pins.artifacts[0].sha256}"):
        broker.start(settings, home=home, environ={**os.environ, "KAFKA_HOME": "", "XDG_CACHE_HOME": str(tmp_path)})
    assert jar.read_bytes() == b"changed"


@pytest.mark.parametrize(
    ("jar", "message"),
    [(None, "there is no Kafka in"), ("kafka_2.13-3.9.1.jar", r"kafka_2\.13-3\.9\.1\.jar is too old")],
)
def test_kafka_home_must_have_a_kafka(settings: BrokerSettings, home: Path, jar: str | None, message: str) -> None:
    (home / "libs").mkdir(parents=True)
    if jar is not None:
        (home / "libs" / jar).touch()
    with pytest.raises(BrokerError, match=rf"KAFKA_HOME = .*{message}.*Unset it"):
        broker.start(settings, home=home, environ={**os.environ, "KAFKA_HOME": str(home)})


@pytest.mark.parametrize("what", ["home", "folder"])
def test_a_home_that_cannot_be_written_is_named(settings: BrokerSettings, tmp_path: Path, what: str) -> None:
    (tmp_path / ("home" if what == "home" else "kafka")).write_text("a file", encoding="utf-8")
    home = tmp_path / "home" if what == "home" else tmp_path
    with pytest.raises(BrokerError, match=r"folder .*kafka cannot be written .*SENSORLOOP_HOME"):
        broker.start(settings, home=home)


@pytest.mark.parametrize("ports_", [(0, 1), (1, 65_536), (29_092, 29_092)])
def test_ports_that_cannot_be(ports_: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="two different numbers from 1 to 65535"):
        BrokerSettings(port=ports_[0], controller_port=ports_[1])


def test_two_starts_at_once_make_one_broker(local_broker: LocalBroker) -> None:
    results: list[bool] = []

    def one() -> None:
        results.append(broker.start(local_broker.settings, home=local_broker.home)[1])

    threads = [threading.Thread(target=one) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [False, False, False]


def test_somebody_who_does_not_speak_kafka_is_no_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def talk() -> None:
            with server.accept()[0] as connection:
                connection.recv(100)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=talk)
        thread.start()
        assert not broker.answers("127.0.0.1", port, timeout_s=10)
        thread.join()
    assert not broker.answers("127.0.0.1", port, timeout_s=1)


def test_cluster_ids_are_uuids_in_kafka_s_notation() -> None:
    found = {broker_data.new_cluster_id() for _ in range(500)}
    assert len(found) == 500
    assert all(len(text) == 22 and not text.startswith("-") for text in found)
