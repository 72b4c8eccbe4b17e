from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streaming import sensor_batch_pb2 as pb
from streaming.account import account
from streaming.client import Membership, Record
from streaming.delivery import DeliverySettings
from streaming.errors import LakeError, LogReplaced, LostOwnership
from streaming.faults import hooked
from streaming.lake import scan_windows
from streaming.log import read_log
from streaming.offsets import Account, TopicPartition
from streaming.recording import write_recording
from streaming.replay import Pace, expected_samples, replay
from streaming.settings import LakeSettings
from streaming.storage import Storage
from streaming.tables import WINDOWS
from streaming.verify import verify
from streaming.windows import WindowsTable
from streaming.wire import encode
from tests.fakes.producer import FakeProducer

from .ingesting import NOW_NS, P0, P1, Rig, log, session
from .sessions import EPOCH, NOW, SECOND, SETTINGS, batch
from .test_delivery import NS, START, recording


def test_a_topic_becomes_a_table(tmp_path: Path) -> None:
    rig = Rig(tmp_path, {P0: log(session(9)), P1: log(session(5, "s2"))})
    counters = rig.until_caught_up()
    assert rig.rows().height == counters["rows"] == 14
    assert counters["samples"] == 14 * 25 == rig.rows()["acc_fresh"].sum()
    assert rig.source.hints == {P0: 9, P1: 5}


def test_a_member_without_a_partition_is_caught_up_once_the_group_has_shared_them_out(tmp_path: Path) -> None:
    rig = Rig(tmp_path, {P0: log(session(9))})
    rig.source.revoke(P0)
    rig.ingest.step()
    assert not rig.ingest.caught_up(), "the group is about to share them out"
    rig.source.shared_out = True
    assert rig.ingest.caught_up()
    rig.source.assign(P0)
    assert not rig.ingest.caught_up(), "it has got one after all"
    assert rig.until_caught_up()["rows"] == 9


def test_undecodable_batches_go_to_the_dead_letters_and_the_partition_goes_on(tmp_path: Path) -> None:
    good = session(4)
    poison = [b"\xff\xff not protobuf", b"", encode(batch(1))[:-3]]
    rig = Rig(tmp_path, {P0: log([good[0], *poison, *good[1:]])})
    counters = rig.until_caught_up()
    assert counters["dead_letters"] == 3
    assert rig.rows()["acc_fresh"].sum() == 100
    assert [(h["topic"], h["partition"], h["offset"]) for _, h in rig.dead_letters.safe] == [
        ("sensor.batches", "0", "1"), ("sensor.batches", "0", "2"), ("sensor.batches", "0", "3"),
    ]  # fmt: skip
    assert all(headers["reason"] and headers["detail"] for _, headers in rig.dead_letters.safe)


def damaged(**change: object) -> bytes:
    """Batch 1 of the session, with another accelerometer block."""
    fields = {
        "sensor": "accelerometer", "start_ns": EPOCH + SECOND, "period_ns": SECOND // 25, "axes": ["x", "y", "z"],
        "values": bytes(25 * 3 * 4), **change,
    }  # fmt: skip
    message = pb.SensorBatch.FromString(encode(batch(1, device="of-s1")))
    del message.blocks[:]
    message.blocks.append(pb.SensorBlock(**fields))
    return message.SerializeToString()


@pytest.mark.parametrize(
    ("poison", "reason"),
    [
        (damaged(values=bytes(25 * 3 * 4 - 1)), "wrong_length"),
        (damaged(values=bytes(25 * 2 * 4)), "wrong_length"),
        (damaged(axes=["x", "y", "w"]), "unknown_axes"),
        (damaged(start_ns=NOW_NS + 2 * 86_400 * SECOND), "far_future"),
        (damaged(period_ns=2**62), "bad_time"),
        (damaged(values=bytes(12), period_ns=2**63), "bad_time"),
        (damaged(values=bytes(12 * 5_000)), "oversized"),
        (bytes(70_000), "oversized"),
        (b"", "empty"),
        (None, "empty"),
        (damaged(values=b""), "empty"),
        (b'{"device_id": "d1", "samples": []}', "not_protobuf"),
        (damaged()[:-7], "not_protobuf"),
    ],
)
def test_one_bad_batch_of_any_kind_is_a_dead_letter_and_all_around_it_is_kept(
    tmp_path: Path, poison: bytes | None, reason: str
) -> None:
    good = session(6)
    limits = {"max_batch_bytes": 65_536, "max_batch_samples": 4_000}
    rig = Rig(tmp_path, {P0: log([*good[:3], poison, *good[3:]]), P1: log(session(4, "s2"))}, **limits)
    counters = rig.until_caught_up()
    assert counters["dead_letters"] == counters[f"dead_letters_{reason}"] == 1
    ((value, headers),) = rig.dead_letters.safe
    assert value == (poison or value), "as it came"
    where = {"reason": reason, "topic": "sensor.batches", "partition": "0", "offset": "3"}
    assert headers == {**where, "detail": headers["detail"]}
    assert headers["detail"]
    assert rig.rows()["acc_fresh"].sum() == 10 * 25 == counters["samples"]
    assert rig.source.hints == {P0: 7, P1: 4}


def test_dead_letters_are_safe_before_their_offsets_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(tmp_path, {P0: log([b"poison"])})

    def refuse() -> None:
        raise ConnectionError

    monkeypatch.setattr(rig.dead_letters, "flush", refuse)
    rig.ingest.step()
    rig.ingest.step()
    with pytest.raises(ConnectionError):
        rig.ingest.commit()
    assert WindowsTable(LakeSettings(uri=str(tmp_path)), SETTINGS.sensors).offset(P0) is None


def test_a_commit_is_due_by_rows_or_by_time(tmp_path: Path) -> None:
    rig = Rig(tmp_path, {P0: log(session(40)[:-1])}, commit_rows=1000)
    for _ in range(12):
        rig.ingest.step()
    assert rig.ingest.counters().get("commits", 0) == 0
    rig.clock.advance(30)
    rig.ingest.step()
    assert rig.ingest.counters()["commits"] == 1
    assert rig.rows().height == 34


def test_an_open_window_holds_the_offset_and_is_not_published(tmp_path: Path) -> None:
    rig = Rig(tmp_path, {P0: log(session(9)[:-1])})
    rig.until_caught_up()
    assert rig.rows()["start_ns"].max() == EPOCH + 2 * 1_000_000_000
    committed = WindowsTable(LakeSettings(uri=str(tmp_path)), SETTINGS.sensors).offset(P0)
    assert committed == 2, "batch 2 ends within the margin before the first open window"


def accounts(folder: Path) -> list[dict[TopicPartition, Account]]:
    storage = Storage(str(folder), WINDOWS)
    return [dict(commit.accounts) for commit in read_log(storage, storage.files()) if commit.accounts]


def test_each_offset_has_one_outcome(tmp_path: Path) -> None:
    """Offsets 3 and 4 are a transaction's markers, say; 5 is a repeat; then poison."""
    first, *others = log([*session(6), batch(2, session="s1", device="of-s1"), b"poison"])
    others = [replace(r, offset=r.offset + 2) if r.offset >= 3 else r for r in others]
    ahead = [r for r in others if r.offset < 5] + [
        replace(others[5], offset=5),
        *(replace(r, offset=r.offset + 1) for r in others[2:5]),
    ]
    rig = Rig(tmp_path, {P0: [first, *ahead, replace(others[6], offset=9)]})
    rig.until_caught_up()
    found = [account[P0] for account in accounts(tmp_path)]
    totals = Counter[str]()
    for account_ in found:
        totals.update(
            {name: getattr(account_, name) for name in ("batches", "repeats", "dead_letters", "absent", "windows")}
        )
    assert totals == {"batches": 6, "repeats": 1, "dead_letters": 1, "absent": 2, "windows": 6}
    assert (found[-1].to_offset, found[-1].read_to) == (10, 10)
    proof = verify(str(tmp_path))
    assert (proof.problems, proof.absent_offsets) == ((), 2)


def test_offsets_held_by_an_open_window_are_settled_by_a_later_commit(tmp_path: Path) -> None:
    batches = session(9)
    rig = Rig(tmp_path, {P0: log(batches[:-1])})
    rig.until_caught_up()
    held = accounts(tmp_path)[-1][P0]
    assert (held.to_offset, held.read_to) == (2, 8)
    rig.logs[P0] = log(batches)
    rig.restart()
    rig.until_caught_up()
    last = accounts(tmp_path)[-1][P0]
    assert (last.from_offset, last.to_offset, last.commit) == (2, 9, held.commit + 1)
    assert last.rows_before + last.windows == 9
    assert verify(str(tmp_path)).problems == ()


def test_revoked_partitions_are_forgotten_and_read_again(tmp_path: Path) -> None:
    rig = Rig(tmp_path, {P0: log(session(9)), P1: log(session(9, "s2"))}, commit_rows=1000)
    for _ in range(3):
        rig.ingest.step()
    rig.source.revoke(P0)
    rig.ingest.step()
    rig.ingest.commit()
    assert rig.rows()["session_id"].unique().to_list() == ["s2"]
    rig.source.assign(P0)
    counters = rig.until_caught_up()
    assert rig.rows().height == 18
    assert counters["revocations"] == 1


def test_lost_and_regained_between_two_polls_is_a_new_start(tmp_path: Path) -> None:
    rig = Rig(tmp_path, {P0: log(session(9))}, commit_rows=1000)
    for _ in range(2):
        rig.ingest.step()
    rig.source.revoke(P0)
    rig.source.assign(P0)
    rig.until_caught_up()
    assert rig.rows().height == 9
    assert rig.rows()["acc_fresh"].sum() == 9 * 25


def test_a_zombie_is_refused(tmp_path: Path) -> None:
    zombie = Rig(tmp_path, {P0: log(session(9))}, commit_rows=1000)
    for _ in range(5):
        zombie.ingest.step()
    owner = Rig(tmp_path, zombie.logs)
    owner.until_caught_up()
    before = owner.rows()
    zombie.source.membership = Membership.GONE
    with pytest.raises(LostOwnership):
        zombie.ingest.commit()
    assert owner.rows().equals(before)


class CrashError(BaseException):
    """What kill -9 looks like from inside: nothing of ours runs after it."""


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(seed=st.integers(0, 2**32), crashes=st.lists(st.integers(0, 12), max_size=4))
def test_crashes_at_any_step_of_the_commit_change_nothing(
    tmp_path_factory: pytest.TempPathFactory, seed: int, crashes: list[int]
) -> None:
    """Crash before or after any write of a run, several times: the rows are those of an undisturbed run."""
    rng = random.Random(seed)
    batches = [b for s in range(3) for b in session(rng.randint(1, 9), f"s{s}")]
    rng.shuffle(order := [b.session_id for b in batches])
    queues = {name: [b for b in batches if b.session_id == name] for name in set(order)}
    mixed = [queues[name].pop(0) for name in order]
    mixed = [b for b in mixed for _ in range(rng.choice([1, 1, 1, 2]))]
    for b in rng.sample(mixed, k=min(3, len(mixed))):
        mixed.insert(rng.randint(mixed.index(b) + 1, len(mixed)), b)
    undisturbed = Rig(tmp_path_factory.mktemp("calm"), {P0: log(mixed)})
    undisturbed.until_caught_up()
    rig = Rig(tmp_path_factory.mktemp("storm"), {P0: log(mixed)})
    points = ["publish.files", "publish.checked", "publish.committed"]
    for crash in crashes:
        with hooked(_crash_at(points[crash % 3], crash // 3)):
            try:
                rig.until_caught_up()
            except CrashError:
                rig.restart()
    rig.until_caught_up()
    rig.quiet(62)
    rig.ingest.commit()
    assert rig.rows().equals(undisturbed.rows())
    proof = verify(str(rig.folder))
    assert proof.problems == ()
    assert proof.absent_offsets == 0


def _crash_at(point: str, count: int) -> Callable[[str], None]:
    calls = iter(range(1_000))

    def crash(reached: str) -> None:
        if reached == point and next(calls) == count:
            raise CrashError

    return crash


def test_a_lake_that_cannot_be_written_publishes_nothing_and_goes_on_later(tmp_path: Path) -> None:
    rig = Rig(tmp_path, {P0: log(session(9))}, commit_rows=1000)
    for _ in range(4):
        rig.ingest.step()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("streaming.storage.os.fsync", _no_space)
        with pytest.raises(LakeError):
            rig.ingest.commit()
    rig.until_caught_up()
    assert rig.rows().height == 9


def test_repeats_that_come_late_are_neither_lost_nor_doubled(tmp_path: Path) -> None:
    """Recordings as phones send them, half of the batches again after up to a minute, hours offline; and five restarts."""
    for i in range(4):
        one = recording(30 + i, session=f"s{i}", device=f"d{i % 2}", start=START + i * 10 * NS, seed=i)
        write_recording(tmp_path / "sent" / f"{i}.parquet", one)
    manners = DeliverySettings(repeat_rate=0.5, late_repeat_rate=1, late_repeat=timedelta(minutes=1), offline_rate=0.5)
    producer = FakeProducer()
    replayed = replay(tmp_path / "sent", producer, "t", pace=Pace(), delivery=manners)
    assert replayed.repeats > 40
    received = int(NOW.timestamp()) * NS
    records = [
        Record(offset=i, timestamp_ns=received, key=key, value=value)
        for i, (_, value, key, _) in enumerate(producer.records)
    ]
    rig = Rig(tmp_path / "lake", {P0: records})
    totals: Counter[str] = Counter()
    for restart in range(6):
        for _ in range(8 if restart < 5 else 0):
            rig.ingest.step()
        counted = rig.ingest.counters() if restart < 5 else rig.until_caught_up()
        totals.update(counted)
        if restart < 5:
            rig.restart()
    sums = account(expected_samples(tmp_path / "sent", hop_ns=SETTINGS.hop_ns), scan_windows(str(tmp_path / "lake")))
    assert (sums.sent, sums.lost, sums.doubled) == (replayed.samples, 0, 0)
    assert totals["late_samples"] == 0
    assert totals["duplicate_batches"] >= replayed.repeats


def _no_space(_: int) -> None:
    raise OSError(28, "No space left on device")


def test_the_loop_beside_takes_a_step_after_each_of_ours_and_publishes_at_the_end(tmp_path: Path) -> None:
    rig = Rig(tmp_path, {P0: log(session(3))})
    done: list[str] = []

    class Beside:
        def step(self) -> None:
            done.append(f"step at {rig.ingest.counters().get('records', 0)}")

        def commit(self) -> None:
            done.append(f"commit after {rig.rows().height} rows")

        refused: Mapping[TopicPartition, str] = {P1: "labels[1] is another"}

    with pytest.raises(LogReplaced, match=r"labels.1. is another"):
        rig.ingest.run(stop=lambda: rig.ingest.counters().get("records") == 3, beside=Beside())
    assert done[0] == "step at 0"
    assert done[-2:] == ["step at 3", "commit after 3 rows"]
