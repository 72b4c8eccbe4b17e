"""Which Kafka is used, and so whether one is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from dags.settings import external_kafka, load


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
