"""The labels topic into the ``labels`` table, over fakes and a real table."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streaming.client import Membership, Record
from streaming.clock import SteadyClock
from streaming.errors import LakeError, LostOwnership
from streaming.faults import hooked
from streaming.label_wire import SceneLabel, encode_label
from streaming.labels import LabelIngest
from streaming.labels_table import LabelsTable
from streaming.lake import labels_version, scan_labels
from streaming.offsets import TopicPartition
from streaming.progress import Progress
from streaming.settings import IngestSettings, LakeSettings, WindowSettings
from streaming.tables import LABELS, NO_LABELS
from streaming.verify import Proof, verify
from tests.fakes.source import FakeDeadLetters, FakeSource

L0 = TopicPartition(topic="sensor.labels", partition=0)
L1 = TopicPartition(topic="sensor.labels", partition=1)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
NOW_NS = int(NOW.timestamp()) * 10**9


def label(number: int, scene: str | None = "Walk", *, session: str | None = None) -> SceneLabel:
    return SceneLabel(
        device_id="d1", session_id=session, start_ns=number, end_ns=number + 10, scene=scene, said_by="ana",
        said_ns=NOW_NS - 10**15 + number,
    )  # fmt: skip


def log(values: Sequence[SceneLabel | bytes | None]) -> list[Record]:
    encoded = [encode_label(v) if isinstance(v, SceneLabel) else v for v in values]
    return [Record(offset=i, timestamp_ns=NOW_NS, key=b"d1", value=v) for i, v in enumerate(encoded)]


class Rig:
    """A label ingest over fakes and a real table; ``restart`` is what a crash leaves."""

    def __init__(self, folder: Path, logs: dict[TopicPartition, list[Record]], *, commit_rows: int = 3) -> None:
        self.folder, self.logs = folder, logs
        self.settings = IngestSettings(commit_rows=commit_rows, commit_interval=timedelta(seconds=30))
        self.now = NOW
        self.dead_letters = FakeDeadLetters()
        self.restart()

    def restart(self) -> None:
        self.source = FakeSource(self.logs, poll_records=2)
        self.source.assign(*self.logs)
        self.ingest = LabelIngest(
            source=self.source, table=LabelsTable(LakeSettings(uri=str(self.folder))), dead_letters=self.dead_letters,
            windows=WindowSettings(), settings=self.settings, clock=lambda: self.now,
        )  # fmt: skip

    def until_caught_up(self) -> dict[str, int]:
        while not self.ingest.caught_up():
            self.ingest.step()
        self.ingest.commit()
        return self.ingest.counters()

    def rows(self) -> pl.DataFrame:
        lake = str(self.folder)
        rows = scan_labels(lake, labels_version(lake)).drop("ingested_at")
        return rows.sort("kafka_partition", "kafka_offset").collect()

    def proof(self) -> Proof:
        return verify(str(self.folder), LABELS)


def test_a_topic_becomes_a_table(tmp_path: Path) -> None:
    rig = Rig(tmp_path, {L0: log([label(1), label(2, None, session="s")]), L1: log([label(3)])})
    counters = rig.until_caught_up()
    assert counters == {"label_records": 3, "labels": 3, "label_commits": 1, "labels_withdrawn": 1}
    first, second, third = rig.rows().to_dicts()
    assert (first["scene"], first["session_id"], first["start_ns"], first["end_ns"]) == ("Walk", None, 1, 11)
    assert (second["scene"], second["session_id"], second["said_ns"]) == (None, "s", label(2).said_ns)
    assert str(second["said_date"]) == "2025-12-20"
    assert (third["topic"], third["kafka_partition"], third["kafka_offset"]) == ("sensor.labels", 1, 0)
    assert rig.source.hints == {L0: 2, L1: 1}
    assert rig.proof().problems == ()
    assert (rig.proof().rows, rig.proof().partitions) == (3, 2)


def test_before_anybody_said_anything(tmp_path: Path) -> None:
    assert labels_version(str(tmp_path)) == NO_LABELS
    assert scan_labels(str(tmp_path), NO_LABELS).collect().is_empty()
    LabelsTable(LakeSettings(uri=str(tmp_path)))
    assert labels_version(str(tmp_path)) == 0
    assert scan_labels(str(tmp_path), 0).collect().is_empty()


def test_what_cannot_be_decoded_is_a_dead_letter_and_all_around_it_is_kept(tmp_path: Path) -> None:
    rig = Rig(tmp_path, {L0: log([label(1), b"poison", None, label(2)])})
    counters = rig.until_caught_up()
    assert counters["label_dead_letters"] == 2
    assert counters["label_dead_letters_empty"] == counters["label_dead_letters_not_protobuf"] == 1
    where = [(headers["topic"], headers["offset"], headers["reason"]) for _, headers in rig.dead_letters.safe]
    assert where == [("sensor.labels", "1", "not_protobuf"), ("sensor.labels", "2", "empty")]
    assert rig.rows()["kafka_offset"].to_list() == [0, 3]
    assert rig.proof().problems == ()


def test_dead_letters_are_safe_before_their_offsets_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(tmp_path, {L0: log([b"poison"])})

    def refuse() -> None:
        raise ConnectionError

    monkeypatch.setattr(rig.dead_letters, "flush", refuse)
    rig.ingest.step()
    rig.ingest.step()
    with pytest.raises(ConnectionError):
        rig.ingest.commit()
    assert LabelsTable(LakeSettings(uri=str(tmp_path))).position(L0).offset is None


def test_a_commit_is_due_by_labels_or_by_time(tmp_path: Path) -> None:
    rig = Rig(tmp_path, {L0: log([label(i) for i in range(5)])}, commit_rows=4)
    for _ in range(3):
        rig.ingest.step()
    assert rig.ingest.counters()["label_commits"] == 1
    rig.ingest.step()
    assert (rig.rows().height, rig.ingest.counters()["label_records"]) == (4, 5)
    rig.now += timedelta(seconds=30)
    rig.ingest.step()
    assert rig.rows().height == 5


def test_it_says_how_far_it_is_about_once_a_second(tmp_path: Path) -> None:
    rig = Rig(tmp_path, {L0: log([label(i) for i in range(5)])}, commit_rows=100)
    seen: list[Progress] = []
    rig.ingest._watch = seen.append
    for _ in range(2):
        rig.ingest.step()
    assert seen == []
    rig.now += timedelta(seconds=1)
    rig.ingest.step()
    (partition,) = seen[-1].partitions
    assert (partition.position, partition.waiting, seen[-1].lag) == (4, 4, 1)
    rig.until_caught_up()
    assert (seen[-1].lag, seen[-1].partitions[0].waiting) == (0, 0)
    assert [reason for each in seen for reason, _ in each.commits] == ["stop"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("streaming.storage.os.fsync", _no_space)
        rig.logs[L0] += [Record(offset=5, timestamp_ns=NOW_NS, key=b"d1", value=rig.logs[L0][0].value)]
        for _ in range(2):
            rig.now += timedelta(seconds=30)
            rig.ingest.step()
        assert seen[-1].paused == 1


def test_nothing_new_is_no_commit(tmp_path: Path) -> None:
    rig = Rig(tmp_path, {L0: [], L1: log([label(1)])})
    rig.until_caught_up()
    rig.now += timedelta(hours=1)
    rig.ingest.step()
    version = labels_version(str(tmp_path))
    rig.restart()
    assert "label_commits" not in rig.until_caught_up()
    assert labels_version(str(tmp_path)) == version


def test_a_member_without_a_partition_is_caught_up_once_the_group_has_shared_them_out(tmp_path: Path) -> None:
    """Of a group with more members than partitions; else ``--until-caught-up`` would never end."""
    rig = Rig(tmp_path, {L0: log([label(1)])})
    assert not rig.ingest.caught_up(), "not looked up yet"
    rig.source.revoke(L0)
    rig.ingest.step()
    assert not rig.ingest.caught_up(), "the group is about to share them out"
    rig.source.shared_out = True
    assert rig.ingest.caught_up()
    rig.source.assign(L0)
    assert not rig.ingest.caught_up(), "it has got one after all"
    assert rig.until_caught_up()["labels"] == 1


def test_revoked_partitions_are_forgotten_and_read_again(tmp_path: Path) -> None:
    rig = Rig(tmp_path, {L0: log([label(1), label(2)])}, commit_rows=100)
    for _ in range(2):
        rig.ingest.step()
    rig.source.revoke(L0)
    rig.ingest.step()
    rig.ingest.commit()
    assert rig.rows().is_empty()
    rig.source.assign(L0)
    rig.until_caught_up()
    assert rig.rows().height == 2


def test_where_kafka_would_read_on_does_not_matter(tmp_path: Path) -> None:
    """Its hint is ahead of the table, and what was fetched from there comes with the assignment."""
    rig = Rig(tmp_path, {L0: log([label(i) for i in range(5)])}, commit_rows=100)
    rig.source.positions[L0] = 3
    rig.until_caught_up()
    assert rig.rows()["kafka_offset"].to_list() == [0, 1, 2, 3, 4]
    assert (rig.proof().problems, rig.proof().absent_offsets) == ((), 0)


def test_a_zombie_is_refused(tmp_path: Path) -> None:
    zombie = Rig(tmp_path, {L0: log([label(1), label(2)])}, commit_rows=100)
    for _ in range(2):
        zombie.ingest.step()
    owner = Rig(tmp_path, zombie.logs)
    owner.until_caught_up()
    zombie.source.membership = Membership.GONE
    with pytest.raises(LostOwnership):
        zombie.ingest.commit()
    assert owner.rows().height == 2


def test_a_zombie_that_has_committed_is_refused_whatever_kafka_thinks(tmp_path: Path) -> None:
    zombie = Rig(tmp_path, {L0: log([label(1), label(2)])}, commit_rows=2)
    for _ in range(2):
        zombie.ingest.step()
    assert zombie.rows().height == 2
    logs = {L0: log([label(i) for i in range(3)])}
    zombie.source.logs = logs
    zombie.ingest.step()
    Rig(tmp_path, logs).until_caught_up()
    with pytest.raises(LostOwnership):
        zombie.ingest.commit()
    assert zombie.rows().height == 3


def test_an_owner_that_was_late_is_read_on_from(tmp_path: Path) -> None:
    """Its commit came after we had been given the partition, and before our first: we are the owner, and go on."""
    ours = Rig(tmp_path, {L0: log([label(i) for i in range(4)])}, commit_rows=100)
    for _ in range(2):
        ours.ingest.step()
    late = Rig(tmp_path, {L0: ours.logs[L0][:1]})
    late.until_caught_up()
    ours.until_caught_up()
    counters = ours.until_caught_up()
    assert counters["labels_taken_anew"] == 1
    assert ours.rows()["kafka_offset"].to_list() == [0, 1, 2, 3]
    assert ours.proof().problems == ()


def test_a_full_disk_is_waited_out(tmp_path: Path) -> None:
    rig = Rig(tmp_path, {L0: log([label(i) for i in range(9)])}, commit_rows=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("streaming.storage.os.fsync", _no_space)
        for _ in range(5):
            rig.ingest.step()
        assert rig.ingest.counters()["label_failed_tries"] == 1, "once a second, and the clock stands still"
        assert rig.ingest.counters()["label_records"] == 2, "nothing is read meanwhile"
        rig.now += timedelta(seconds=1)
        rig.ingest.step()
        assert rig.ingest.counters()["label_failed_tries"] == 2
    rig.now += timedelta(seconds=2)
    rig.until_caught_up()
    assert rig.rows().height == 9
    assert rig.proof().problems == ()


def test_a_commit_that_took_effect_and_failed_all_the_same_is_not_doubled(tmp_path: Path) -> None:
    rig = Rig(tmp_path, {L0: log([label(i) for i in range(9)]), L1: log([label(10 + i) for i in range(9)])})
    twice = iter([False, True, False, True])

    def fails_after(point: str) -> None:
        if point == "publish.committed" and next(twice, False):
            msg = "the store did not answer"
            raise LakeError(msg)

    with hooked(fails_after):
        for _ in range(12):
            rig.ingest.step()
            rig.now += timedelta(seconds=2)
    counters = rig.until_caught_up()
    assert (counters["label_failed_tries"], counters["labels_taken_anew"]) == (2, 4)
    assert rig.rows().height == 18
    assert rig.proof().problems == ()


@pytest.mark.parametrize("then", [Membership.OWNER, Membership.GONE])
def test_while_kafka_does_not_say_whose_it_is_it_is_not_read(tmp_path: Path, then: Membership) -> None:
    logs = {L0: log([label(i) for i in range(9)])}
    rig, other = Rig(tmp_path, logs, commit_rows=100), Rig(tmp_path, {L0: logs[L0][:4]})
    for _ in range(2):
        rig.ingest.step()
    other.until_caught_up()
    rig.source.membership = Membership.UNSURE
    rig.ingest.commit()
    for _ in range(3):
        rig.ingest.step()
    assert rig.ingest.counters()["label_records"] == 2
    rig.source.membership = then
    if then is Membership.GONE:
        with pytest.raises(LostOwnership):
            rig.ingest.step()
    else:
        assert rig.until_caught_up()["labels_taken_anew"] == 1
        assert rig.rows().height == 9


def test_a_lake_that_cannot_be_read_while_a_partition_is_taken_anew_is_waited_for(tmp_path: Path) -> None:
    logs = {L0: log([label(i) for i in range(9)])}
    rig, other = Rig(tmp_path, logs, commit_rows=4), Rig(tmp_path, {L0: logs[L0][:3]})
    for _ in range(2):
        rig.ingest.step()
    other.until_caught_up()
    files = list((tmp_path / LABELS).rglob("*.parquet"))
    hidden = [file.rename(file.with_suffix(".away")) for file in files]
    for _ in range(3):
        rig.ingest.step()
    assert rig.ingest.counters()["label_failed_tries"] == 1
    for file in hidden:
        file.rename(file.with_suffix(".parquet"))
    rig.now += timedelta(seconds=1)
    assert rig.until_caught_up()["labels_taken_anew"] == 1
    assert rig.rows().height == 9
    assert rig.proof().problems == ()


def test_its_clock_never_goes_back(tmp_path: Path) -> None:
    rig = Rig(tmp_path, {L0: []})
    table = LabelsTable(LakeSettings(uri=str(tmp_path)))
    ingest = LabelIngest(
        source=rig.source, table=table, dead_letters=rig.dead_letters, windows=WindowSettings(), settings=rig.settings
    )
    assert isinstance(ingest._clock, SteadyClock)


def _no_space(_: int) -> None:
    raise OSError(28, "No space left on device")


def test_offsets_that_kafka_had_no_record_at_are_absent(tmp_path: Path) -> None:
    first, second = log([label(1), label(2)])
    rig = Rig(tmp_path, {L0: [first, Record(offset=7, timestamp_ns=NOW_NS, key=None, value=second.value)]})
    rig.until_caught_up()
    assert (rig.proof().problems, rig.proof().absent_offsets) == ((), 6)


class CrashError(BaseException):
    """What kill -9 looks like from inside."""


def _crash_at(point: str, count: int) -> Callable[[str], None]:
    calls = iter(range(1_000))

    def crash(reached: str) -> None:
        if reached == point and next(calls) == count:
            raise CrashError

    return crash


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(seed=st.integers(0, 2**32), crashes=st.lists(st.integers(0, 8), max_size=4))
def test_crashes_at_any_step_of_the_commit_change_nothing(
    tmp_path_factory: pytest.TempPathFactory, seed: int, crashes: list[int]
) -> None:
    rng = random.Random(seed)
    logs = {
        partition: log(
            [rng.choice([label(rng.randint(0, 9)), label(1, None), b"poison"]) for _ in range(rng.randint(0, 12))]
        )
        for partition in (L0, L1)
    }
    calm = Rig(tmp_path_factory.mktemp("calm"), logs)
    calm.until_caught_up()
    rig = Rig(tmp_path_factory.mktemp("storm"), logs)
    points = ["publish.files", "publish.checked", "publish.committed"]
    for crash in crashes:
        with hooked(_crash_at(points[crash % 3], crash // 3)):
            try:
                rig.until_caught_up()
            except CrashError:
                rig.restart()
    rig.until_caught_up()
    assert rig.rows().equals(calm.rows())
    assert rig.proof().problems == ()
