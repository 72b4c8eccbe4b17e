"""Partitions whose log is not the one that the lake has read: set aside while the others are read, until a person accepts it."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dags.local.lake import accept as command
from dags.settings import load
from streaming.client import Record
from streaming.errors import LakeError, LogReplaced, SettingsError, Unwritable
from streaming.metrics import Metrics
from streaming.offsets import Account, TopicPartition
from streaming.refusals import accept, require_none
from streaming.replay import make_producer
from streaming.settings import KafkaSettings, LakeSettings
from streaming.status import Observer
from streaming.tables import LABELS, WINDOWS
from streaming.verify import verify
from streaming.windows import WindowsTable
from streaming.wire import encode

from . import lakes, test_labels
from .ingesting import P0, P1, Rig, log, session
from .operating import interleaved
from .sessions import SETTINGS, batch
from .test_labels import L0, L1, label

Some = Rig | test_labels.Rig


def moved(records: Sequence[Record], by: int) -> list[Record]:
    return [replace(record, offset=record.offset + by) for record in records]


def windows_rig(folder: Path) -> Rig:
    rig = Rig(folder, {P0: log(session(9)), P1: log(session(3, "p1"))})
    rig.until_caught_up()
    return rig


def labels_rig(folder: Path) -> test_labels.Rig:
    rig = test_labels.Rig(folder, {L0: test_labels.log([label(i) for i in range(9)]), L1: test_labels.log([label(50)])})
    rig.until_caught_up()
    return rig


def again(rig: Some) -> None:
    """What a supervisor does: start it, whatever became of it the last time."""
    rig.restart()
    rig.until_caught_up()


def test_a_lost_end_is_refused_for_good_and_the_other_partition_is_read_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rig = windows_rig(tmp_path)
    rig.logs[P0][:] = rig.logs[P0][:6]
    rig.logs[P1] += moved(log(session(4, "p1-later")), 3)
    rig.restart()
    with (
        caplog.at_level(logging.ERROR),
        pytest.raises(LogReplaced, match=r"^1 partition was not read.*sensor.batches\[0\]"),
    ):
        rig.until_caught_up()
    assert [record.message.count("The other partitions are read on") for record in caplog.records] == [1]
    assert set(rig.rows()["session_id"]) == {"s1", "p1", "p1-later"}
    # The log grows past what was read of it: nothing is to be seen any more of what it has lost.
    rig.logs[P0] += moved(log(session(9, "s2")), 6)
    for _ in range(2):
        with pytest.raises(LogReplaced, match=r"from offset 0 on or later.*lake accept sensor.batches 0"):
            again(rig)
    assert "s2" not in set(rig.rows()["session_id"])
    assert verify(str(tmp_path)).problems == ()


def test_labels_too(tmp_path: Path) -> None:
    rig = labels_rig(tmp_path)
    rig.logs[L0][:] = rig.logs[L0][:6]
    rig.logs[L1] += moved(test_labels.log([label(51, "Bus")]), 1)
    again(rig)
    assert set(rig.ingest.refused) == {L0}
    assert "Bus" in set(rig.rows()["scene"]), "the other partition"
    rig.logs[L0] += moved(test_labels.log([label(100 + i, "Run") for i in range(6)]), 6)
    again(rig)
    assert set(rig.ingest.refused) == {L0}
    assert "Run" not in set(rig.rows()["scene"])
    accept(str(tmp_path), LABELS, L0, by="ana")
    again(rig)
    assert not rig.ingest.refused
    assert rig.rows().filter(scene="Run")["kafka_offset"].to_list() == [9, 10, 11], (
        "6 to 8 were passed over, as was accepted"
    )
    assert rig.proof().problems == ()


def test_labels_that_are_refused_do_not_keep_batches_out(tmp_path: Path) -> None:
    """The two loops as `sensorloop ingest` runs them."""
    said = labels_rig(tmp_path / "labels")
    said.logs[L0][:] = said.logs[L0][:6]
    said.restart()
    rig = Rig(tmp_path / "windows", {P0: log(session(9))})
    with pytest.raises(LogReplaced, match=r"^1 partition was not read.*sensor.labels\[0\]"):
        rig.ingest.run(stop=lambda: rig.ingest.caught_up() and said.ingest.caught_up(), beside=said.ingest)
    assert rig.rows().height == 9


@pytest.mark.parametrize("kind", ["windows", "labels"])
def test_while_it_is_read_and_what_is_accepted_is_read_without_a_restart(tmp_path: Path, kind: str) -> None:
    rig: Any = windows_rig(tmp_path) if kind == "windows" else labels_rig(tmp_path)
    one, table = (P0, WINDOWS) if kind == "windows" else (L0, LABELS)

    def steps() -> None:
        for _ in range(20):
            if kind == "windows":
                rig.clock.advance(2)
            else:
                rig.now += rig.settings.commit_interval / 15
            rig.ingest.step()

    refused = rig.ingest._ours.refusals if kind == "windows" else rig.ingest._refusals
    rig.logs[one][:] = rig.logs[one][:6]
    steps()
    assert set(refused.reasons) == {one}
    assert one in rig.source.paused
    later = log(session(9, "s2")) if kind == "windows" else test_labels.log([label(100 + i) for i in range(9)])
    rig.logs[one] += moved(later, 6)
    before = rig.rows().height
    steps()
    assert rig.rows().height == before
    accept(str(tmp_path), table, one, by="ana")
    steps()
    assert not refused.reasons
    assert not rig.source.paused
    rig.ingest.commit()
    assert rig.rows().height > before


def led_by(records: Sequence[Record], epoch: int) -> list[Record]:
    return [replace(record, leader_epoch=epoch) for record in records]


@pytest.mark.parametrize("kind", ["windows", "labels"])
def test_an_end_that_is_lost_and_grown_again_while_nobody_reads_is_found_by_the_leaders(
    tmp_path: Path, kind: str
) -> None:
    """The log is longer than what was read of it whenever it is looked at."""
    rig: Any
    if kind == "windows":
        one, table, rig = P0, WINDOWS, Rig(tmp_path, {P0: led_by(log(session(9)), 3)})
        later = log(session(9, "s2"))
    else:
        one, table, rig = (
            L0,
            LABELS,
            test_labels.Rig(tmp_path, {L0: led_by(test_labels.log([label(i) for i in range(9)]), 3)}),
        )
        later = test_labels.log([label(100 + i) for i in range(9)])
    rig.until_caught_up()
    before = rig.rows()
    rig.logs[one][:] = [*rig.logs[one][:6], *led_by(moved(later, 6), 4)]
    refused = {"windows": lambda: rig.ingest._ours.refusals.reasons, "labels": lambda: rig.ingest.refused}[kind]
    for sentence in ("has begun again at 6", "from offset 6 on or later"):
        rig.restart()
        with nullcontext() if kind == "labels" else pytest.raises(LogReplaced):
            rig.until_caught_up()
        assert sentence in refused()[one]
        assert rig.rows().equals(before)
    accept(str(tmp_path), table, one, by="ana")
    for _ in range(2):
        again(rig)
        assert not refused()
    assert rig.rows().height > before.height
    assert verify(str(tmp_path), table).problems == ()


def test_a_new_leader_that_lost_nothing_is_none_of_that(tmp_path: Path) -> None:
    """Restarts after each record, with open windows that hold the offset back, and a leader for every other record."""
    batches = log([*session(6), *session(4, "s2")])
    whole = [replace(record, leader_epoch=record.offset // 2) for record in batches]
    rig = Rig(tmp_path, {P0: []}, commit_rows=1)
    for count in range(1, len(whole) + 1):
        rig.logs[P0][:] = whole[:count]
        again(rig)
    assert rig.rows().height == 10
    assert verify(str(tmp_path)).problems == ()


def test_only_what_is_refused_can_be_accepted(tmp_path: Path) -> None:
    windows_rig(tmp_path)
    with pytest.raises(SettingsError, match=r"sensor.batches\[1\] is not refused"):
        accept(str(tmp_path), WINDOWS, P1, by="ana")
    with pytest.raises(LakeError, match="no table labels"):
        accept(str(tmp_path), LABELS, L0, by="ana")


def test_a_refusal_that_cannot_be_noted_yet_is_noted_later_even_if_the_partition_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = windows_rig(tmp_path)
    rig.logs[P0][:] = rig.logs[P0][:6]

    def full(*_: object) -> None:
        msg = "the disk is full"
        raise Unwritable(msg)

    with monkeypatch.context() as patched:
        patched.setattr(rig.ingest._table, "refuse", full)
        rig.quiet(4)
        rig.source.revoke(P0)
        rig.quiet(4)
    rig.quiet(10)
    rig.logs[P0] += moved(log(session(9, "s2")), 6)
    with pytest.raises(LogReplaced):
        again(rig)


def test_a_wrong_address_leaves_nothing_behind(tmp_path: Path) -> None:
    """The id of a topic tells without anything noted, so that the right cluster is read on."""
    rig = Rig(tmp_path, {P0: log(session(5))})
    rig.source.topic_ids[P0.topic] = 1
    rig.until_caught_up()
    rig.restart()
    rig.source.topic_ids[P0.topic] = 2
    with pytest.raises(LogReplaced, match="its id is another"):
        rig.until_caught_up()
    rig.logs[P0] += moved(log(session(4, "s2")), 5)
    rig.restart()
    rig.source.topic_ids[P0.topic] = 1
    rig.until_caught_up()
    assert rig.rows().height == 9


def test_partitions_that_take_turns_go_on_without_one_that_is_refused(tmp_path: Path) -> None:
    partitions = [TopicPartition(topic="sensor.batches", partition=i) for i in range(3)]
    logs = {p: log(interleaved(12, seconds=12, prefix=f"p{p.partition}", ended=True)) for p in partitions}
    rig = Rig(tmp_path, logs, commit_rows=10_000, memory_budget=1 << 20)
    rig.ingest._ours.budget.limit = 250_000
    while rig.ingest._ours.turns is None:
        rig.ingest.step()
        rig.clock.advance(1)
    current = rig.ingest._ours.turns.current
    rig.logs[current][:] = rig.logs[current][:2]
    for _ in range(400):
        rig.ingest.step()
        rig.clock.advance(1)
    rig.ingest.commit()
    assert set(rig.ingest._ours.refusals.reasons) == {current}
    read = rig.rows().filter(kafka_partition=current.partition)["acc_fresh"].sum()
    assert rig.rows()["acc_fresh"].sum() - read == 2 * 12 * 12 * 25
    assert verify(str(tmp_path)).problems == ()


def refused_beside_turns(folder: Path) -> tuple[Rig, list[TopicPartition]]:
    """More than can be read in hundreds of steps of three partitions that take turns, and a fourth that was refused before."""
    *read, aside = partitions = [TopicPartition(topic="sensor.batches", partition=i) for i in range(4)]
    logs = {p: log(interleaved(12, seconds=60, prefix=f"p{p.partition}")) for p in partitions}
    rig = Rig(folder, logs, commit_rows=10_000, memory_budget=1 << 20)
    rig.ingest._ours.budget.limit = 130_000
    rig.ingest._table.refuse(aside, 0, "seen by a test")
    for _ in range(300):
        rig.ingest.step()
        rig.clock.advance(1)
    assert rig.ingest.counters()["memory_turns"] >= 1
    return rig, [*read, aside]


def test_a_partition_that_stays_refused_takes_no_other_one_its_turn(tmp_path: Path) -> None:
    rig, (*read, aside) = refused_beside_turns(tmp_path)
    assert set(rig.ingest._ours.refusals.reasons) == {aside}
    committed = {p.partition: rig.ingest._table.offset(p) or 0 for p in read}
    assert min(committed.values()) > 0, committed
    assert all(committed[p.partition] < len(rig.logs[p]) for p in read), "there was more to read than time"


def test_a_partition_that_is_accepted_while_others_take_turns_takes_turns_too(tmp_path: Path) -> None:
    rig, (*read, aside) = refused_beside_turns(tmp_path)
    accept(str(tmp_path), WINDOWS, aside, by="ana")
    for _ in range(200):
        rig.ingest.step()
        assert rig.ingest.held_bytes <= 130_000 + 5_000
        rig.clock.advance(1)
    rig.ingest.commit()
    assert not rig.ingest._ours.refusals.reasons
    assert all(rig.ingest._table.offset(p) for p in (*read, aside))
    assert verify(str(tmp_path)).problems == ()


def test_a_refused_partition_is_a_metric_of_its_own(tmp_path: Path) -> None:
    rig, metrics = windows_rig(tmp_path), Metrics()
    rig.ingest._watch = metrics.update
    rig.logs[P0][:] = rig.logs[P0][:6]
    rig.quiet(4)
    value = metrics.registry.get_sample_value
    name, where = "sensorloop_ingest_refused_partitions", {"topic": "sensor.batches", "partition": "0"}
    assert value(name, where) == 1
    assert value("sensorloop_ingest_paused_partitions") == 0, "that is for what is read on by itself"
    rig.logs[P0] += moved(log(session(9, "s2")), 6)
    accept(str(tmp_path), WINDOWS, P0, by="ana")
    rig.quiet(40)
    assert value(name, where) is None


def test_an_end_without_refusals_is_none() -> None:
    require_none({}, {})
    with pytest.raises(LogReplaced, match=r"^2 partitions were not read, all else is in the lake\. a b$"):
        require_none({P1: "b", P0: "a"})


@pytest.mark.broker
def test_the_command_beside_a_real_kafka(
    bootstrap_servers: str, new_topic: Callable[[int], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    kafka = KafkaSettings(
        bootstrap_servers=bootstrap_servers, batches_topic=new_topic(1), labels_topic=new_topic(1), deadletter_topic=new_topic(1),
        group_id=f"g-{uuid.uuid4().hex}",
    )  # fmt: skip
    lake = LakeSettings(uri=str(tmp_path))
    one = TopicPartition(topic=kafka.batches_topic, partition=0)
    monkeypatch.setattr("dags.local.lake.load_settings", lambda: replace(load(), kafka=kafka, lake=lake))
    table = WindowsTable(lake, SETTINGS.sensors)
    rows = lakes.session_rows(partition=one)
    account = Account(commit=1, from_offset=0, to_offset=4, read_to=4, batches=4, windows=rows.num_rows)
    table.publish(rows, {one: account})
    table.refuse(one, 2, "seen by a test")
    producer = make_producer(kafka)
    for number in range(5):
        if number == 3:
            with pytest.raises(SettingsError, match=r"ends at offset 3, and the lake has read it to 4"):
                command(one.topic, 0)
        producer.send(
            one.topic, value=encode(batch(number, session="s2", device="d2", end=number == 4)), partition=0
        ).get(10)
    producer.close()
    with pytest.raises(SettingsError, match=r"There is no nowhere\[0\]"):
        command("nowhere", 0)
    observer = Observer(kafka, lake)
    try:
        assert [(each.replaced, each.refused) for each in observer.look().partitions] == [(True, 2)]
        command(one.topic, 0)
        assert '"passed_over": 2' in capsys.readouterr().out
        assert [(each.replaced, each.lag) for each in observer.look().partitions] == [(False, 1)]
    finally:
        observer.close()
    with pytest.raises(SettingsError, match="not refused"):
        command(one.topic, 0)
