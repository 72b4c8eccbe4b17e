"""Which Kafka is used, and so whether one is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from dags.settings import Set, external_kafka, in_force, load
from streaming.errors import SettingsError


@pytest.mark.parametrize(
    ("environ", "toml", "external"),
    [
        ({}, "", None),
        ({"KAFKA_BOOTSTRAP_SERVERS": ""}, "", None),
        ({}, "[broker]\nport = 4000\n", None),
        ({"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:4000"}, "[broker]\nport = 4000\n", None),
        ({"KAFKA_BOOTSTRAP_SERVERS": "kafka.example:9092"}, "", "kafka.example:9092"),
        ({}, '[kafka]\nbootstrap_servers = "kafka.example:9092"\n', "kafka.example:9092"),
        ({"KAFKA_BOOTSTRAP_SERVERS": "a:1,b:2"}, '[kafka]\nbootstrap_servers = "kafka.example:9092"\n', "a:1,b:2"),
    ],
)
def test_a_kafka_that_was_named_is_used_and_else_the_local_one(
    tmp_path: Path, environ: dict[str, str], toml: str, external: str | None
) -> None:
    (tmp_path / "sensorloop.toml").write_text(toml, encoding="utf-8")
    settings = load({"SENSORLOOP_CONFIG": str(tmp_path / "sensorloop.toml"), **environ})
    assert external_kafka(settings) == external
    local = f"{settings.broker.host}:{settings.broker.port}"
    assert settings.kafka.bootstrap_servers == (external or local)


def test_a_file_that_is_named_and_missing_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else one would work with the defaults, in another lake, without a word."""
    named = {"SENSORLOOP_CONFIG": str(tmp_path / "missing.toml")}
    with pytest.raises(SettingsError, match=rf"SENSORLOOP_CONFIG = {tmp_path}/missing.toml: there is no such file"):
        load(named)
    with pytest.raises(SettingsError, match=f"{tmp_path} cannot be read: Is a directory"):
        load({"SENSORLOOP_CONFIG": str(tmp_path)})
    monkeypatch.chdir(tmp_path)
    assert load({}) == load({"SENSORLOOP_CONFIG": ""}) == load({"SENSORLOOP_CONFIG": "/dev/null"})


def test_what_is_set_and_by_whom(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text(
        '[kafka]\ngroup_id = "file"\nbatches_topic = "t"\n[ingest]\nmetrics_port = 9000\n', encoding="utf-8"
    )
    environ = {"SENSORLOOP_CONFIG": str(file), "SENSORLOOP_KAFKA__GROUP_ID": "mine", "KAFKA_BOOTSTRAP_SERVERS": "a:1"}
    assert in_force(environ) == {
        ("kafka", "group_id"): Set(value="mine", origin="SENSORLOOP_KAFKA__GROUP_ID"),
        ("kafka", "batches_topic"): Set(value="t", origin=str(file)),
        ("ingest", "metrics_port"): Set(value=9000, origin=str(file)),
        ("kafka", "bootstrap_servers"): Set(value="a:1", origin="KAFKA_BOOTSTRAP_SERVERS"),
    }
    assert in_force({"SENSORLOOP_CONFIG": "/dev/null"}) == {}
