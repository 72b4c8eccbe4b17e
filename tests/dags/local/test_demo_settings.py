"""What the demo writes into its ``sensorloop.toml``."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from dags.local import demo
from dags.settings import Settings


def configured(place: Path) -> Settings:
    """As a demo in this folder would be, its settings written twice."""
    place.mkdir()
    made = demo._Demo(place=place, console=Console(stderr=True))
    demo._configure(made, scenes=(), holdout=())
    first = made.settings
    demo._configure(made, scenes=(), holdout=("p1",))
    assert first is not None
    assert made.settings is not None
    assert made.settings.kafka == first.kafka
    return made.settings


def test_each_demo_on_a_kafka_of_somebody_has_topics_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the batches of the demo before would come in again."""
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "kafka.example:9092")
    first, second = (configured(tmp_path / name).kafka for name in ("first", "second"))
    for name in ("group_id", "batches_topic", "labels_topic", "deadletter_topic"):
        assert getattr(first, name) != getattr(second, name), name
    assert first.batches_topic.startswith("sensor.batches.demo-")
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS")
    assert configured(tmp_path / "own").kafka.batches_topic == "sensor.batches"


def test_it_trains_what_takes_minutes_unless_somebody_wants_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert configured(tmp_path / "usual").finetune.trainable == "block"
    monkeypatch.setenv("SENSORLOOP_FINETUNE__TRAINABLE", "all")
    assert configured(tmp_path / "more").finetune.trainable == "all"
