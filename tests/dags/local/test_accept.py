"""``sensorloop lake accept``: what it does, and whom it sends elsewhere. A real lake; what Kafka says is given."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dags.local.lake import accept
from dags.settings import load
from streaming.errors import SettingsError
from streaming.offsets import Account, TopicPartition
from streaming.settings import LakeSettings
from streaming.status import PartitionStatus, Status
from streaming.windows import WindowsTable
from tests.streaming import lakes
from tests.streaming.sessions import SETTINGS

ONE = TopicPartition(topic="sensor.batches", partition=0)
Say = Callable[[PartitionStatus], None]


@pytest.fixture
def lake(tmp_path: Path) -> LakeSettings:
    """One partition of it, read up to 4, is refused."""
    settings = LakeSettings(uri=str(tmp_path))
    table = WindowsTable(settings, SETTINGS.sensors)
    rows = lakes.session_rows(partition=ONE)
    account = Account(commit=1, from_offset=0, to_offset=4, read_to=4, batches=4, windows=rows.num_rows)
    table.publish(rows, {ONE: account})
    table.refuse(ONE, 2, "seen by a test")
    return settings


@pytest.fixture
def kafka_says(lake: LakeSettings, monkeypatch: pytest.MonkeyPatch) -> Say:
    monkeypatch.setattr("dags.local.lake.load_settings", lambda: replace(load(), lake=lake))

    def says(found: PartitionStatus) -> None:
        class Observer:
            def __init__(self, *_: object) -> None:
                """There is nothing to reach."""

            def look(self) -> Status:
                return Status(at=datetime.now(UTC), partitions=(found,), labels=(), lake_version=1, labels_version=None)

            def close(self) -> None:
                """There is nothing to give back."""

        monkeypatch.setattr("streaming.status.Observer", Observer)

    return says


def partition(end: int, *, other_topic: bool = False) -> PartitionStatus:
    return PartitionStatus(
        topic=ONE.topic, partition=ONE.partition, begin=0, end=end, committed=4, valid_through=None, replaced=True, refused=2,
        other_topic=other_topic,
    )  # fmt: skip


def test_in_a_container_whose_user_has_no_name_a_number_accepts(
    lake: LakeSettings, kafka_says: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody() -> str:
        raise KeyError(1000)

    monkeypatch.setattr("getpass.getuser", nobody)
    kafka_says(partition(end=6))
    accept(ONE.topic, ONE.partition)
    assert WindowsTable(lake, SETTINGS.sensors).position(ONE).refused is None
    newest = max(tmp_path.rglob("_delta_log/*.json"))
    assert f"uid {os.getuid()}" in newest.read_text(encoding="utf-8")


@pytest.mark.parametrize("end", [3, 6], ids=["shorter", "longer"])
@pytest.mark.parametrize("refused", [None, 2], ids=["not noted", "noted"])
def test_of_another_topic_it_names_the_setting_that_accepts_it(
    lake: LakeSettings, kafka_says: Say, end: int, refused: int | None
) -> None:
    """Neither "see status" nor "when it has grown as long" would have it read, nor would accepting what is noted."""
    kafka_says(replace(partition(end, other_topic=True), refused=refused))
    with pytest.raises(SettingsError, match=r"\[ingest\] accept_other_topic = true"):
        accept(ONE.topic, ONE.partition)
    assert WindowsTable(lake, SETTINGS.sensors).position(ONE).refused == 2


def test_a_mirror_that_has_also_lost_its_end_takes_both(
    lake: LakeSettings, kafka_says: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load()
    ingest = replace(settings.ingest, accept_other_topic=True)
    monkeypatch.setattr("dags.local.lake.load_settings", lambda: replace(settings, lake=lake, ingest=ingest))
    kafka_says(partition(end=6, other_topic=True))
    accept(ONE.topic, ONE.partition)
    assert WindowsTable(lake, SETTINGS.sensors).position(ONE).refused is None
