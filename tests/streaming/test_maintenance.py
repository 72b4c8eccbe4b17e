"""Compaction and vacuum change no row, whatever happens meanwhile and wherever they are killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from streaming.delta import Table, open_table
from streaming.errors import CommitConflict, LakeError, LostOwnership
from streaming.faults import hooked
from streaming.maintenance import compact, vacuum
from streaming.offsets import TopicPartition
from streaming.settings import LakeSettings
from streaming.storage import Storage
from streaming.tables import WINDOWS
from streaming.verify import verify

from .lakes import LATER, P0, P1, Writer, lake_rows, settings
from .sessions import EPOCH, SECOND

DAY = 86_400 * SECOND

ROOT = Path(__file__).parents[2]


@pytest.fixture
def lake(tmp_path: Path) -> LakeSettings:
    """Six small files on two days, from two partitions; files that nothing needs go at once."""
    made = settings(tmp_path, vacuum_retention=timedelta(0))
    one, other = Writer(made), Writer(made, P1)
    for i, name in enumerate(("s3", "s1", "s2")):
        one.publish(name, start_ns=EPOCH + (i == 2) * DAY, device=f"d{i}")
        other.publish(f"t{i}", start_ns=EPOCH + (i == 0) * DAY, device="a")
    return made


def files(lake: LakeSettings) -> list[Path]:
    return sorted(Path(lake.uri, WINDOWS).glob("event_date=*/*.parquet"))


def sound(lake: LakeSettings) -> None:
    assert verify(lake).problems == ()


def test_small_files_become_one_a_day_sorted_and_encoded_as_before(lake: LakeSettings) -> None:
    before = lake_rows(lake)
    done = compact(lake)
    assert (done.days, done.files_before, done.files_after, done.merged) == (2, 6, 2, 6)
    assert lake_rows(lake).equals(before)
    sound(lake)
    live = open_table(Storage(lake, WINDOWS)).files()
    for file in live:
        path = Path(lake.uri, WINDOWS, file.path)
        rows = pq.ParquetFile(path).read()
        keys = list(zip(*(rows[name].to_pylist() for name in ("device_id", "session_id", "start_ns")), strict=True))
        assert keys == sorted(keys)
        group = pq.read_metadata(path).row_group(0)
        columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
        assert "BYTE_STREAM_SPLIT" in columns["acc_x.list.element"].encodings
        assert columns["acc_x.list.element"].compression == "ZSTD"
        assert columns["acc_x.list.element"].statistics is None
        assert columns["start_ns"].statistics is not None
    actions = pa.table(DeltaTable(str(Path(lake.uri, WINDOWS))).get_add_actions(flatten=True)).to_pylist()
    assert {action["min.device_id"] for action in actions} == {"a"}


def test_a_second_compaction_finds_nothing_to_do(lake: LakeSettings) -> None:
    version = compact(lake).version
    again = compact(lake)
    assert (again.merged, again.version) == (0, version)


def test_one_day_only(lake: LakeSettings) -> None:
    assert compact(lake, day="2020-09-13").merged == 4
    assert compact(lake, day="2020-09-13").merged == 0
    assert compact(lake).merged == 2


def test_files_of_the_wanted_size_are_left_alone(lake: LakeSettings) -> None:
    size = max(file.stat().st_size for file in files(lake))
    assert compact(settings(lake.uri, file_bytes=size)).merged == 0
    paired = compact(settings(lake.uri, file_bytes=int(size * 2.1)))
    assert paired.merged >= 4
    assert paired.files_after > 2, "not all of a day in one"
    sound(lake)


def test_an_old_version_reads_as_it_was_until_its_files_are_vacuumed(lake: LakeSettings) -> None:
    pinned = open_table(Storage(lake, WINDOWS)).version
    before = lake_rows(lake, pinned)
    compact(lake)
    patient = settings(lake.uri)
    assert vacuum(patient).deleted == 0, "seven days have not passed"
    assert lake_rows(lake, pinned).equals(before)
    assert vacuum(lake, keep_versions=[pinned]).deleted == 0
    assert lake_rows(lake, pinned).equals(before)
    assert vacuum(lake, dry_run=True).deleted == 6
    assert len(files(lake)) == 8
    done = vacuum(lake)
    assert (done.deleted, done.kept, len(files(lake))) == (6, 0, 2)
    assert lake_rows(lake).equals(before)
    sound(lake)


def test_files_count_from_when_they_were_replaced_not_from_when_they_were_written(lake: LakeSettings) -> None:
    for file in files(lake):
        os.utime(file, (1, 1))
    compact(lake)
    assert vacuum(settings(lake.uri)).deleted == 0
    assert vacuum(settings(lake.uri), now=LATER).deleted == 6
    sound(lake)


def test_orphans_go_once_they_are_old(lake: LakeSettings) -> None:
    orphan = files(lake)[0].with_name("part-0.parquet")
    orphan.write_bytes(b"left by a crash")
    patient = settings(lake.uri)
    assert vacuum(patient).deleted == 0
    os.utime(orphan, (1, 1))
    assert vacuum(patient).deleted == 1
    assert not orphan.exists()
    sound(lake)


def test_offsets_outlive_checkpoint_vacuum_and_the_end_of_the_log(lake: LakeSettings) -> None:
    compact(lake)
    table = DeltaTable(str(Path(lake.uri, WINDOWS)))
    table.alter.set_table_properties({"delta.logRetentionDuration": "interval 0 days"})
    for file in Path(lake.uri, WINDOWS, "_delta_log").glob("*.json"):
        os.utime(file, (1, 1))
    vacuum(lake)
    assert len(list(Path(lake.uri, WINDOWS, "_delta_log").glob("*.json"))) == 1
    writer = Writer(lake)
    found = writer.table.position(P0)
    assert (found.offset, found.commits) == (12, 3)
    sound(lake)
    writer.publish("s9", device="d9")
    assert lake_rows(lake).height == 28
    sound(lake)


@pytest.mark.parametrize("point", ["compact.files", "vacuum.fenced"])
def test_a_writer_commits_meanwhile(lake: LakeSettings, point: str) -> None:
    """Neither of the two is disturbed."""
    writer = Writer(lake)
    written: list[int] = []

    def write(reached: str) -> None:
        if reached == point and not written:
            written.append(0)
            written.append(writer.publish("s9", device="d9"))

    with hooked(write):
        compact(lake)
        vacuum(lake)
    assert lake_rows(lake).height == 28
    sound(lake)


@pytest.mark.parametrize("point", ["publish.files", "publish.checked"])
def test_a_vacuum_between_files_and_commit_takes_no_file_that_is_then_named(lake: LakeSettings, point: str) -> None:
    """Even with no retention at all: the writer writes its files again."""
    writer = Writer(lake)
    vacuumed: list[int] = []

    def sweep(reached: str) -> None:
        if reached == point and not vacuumed:
            vacuumed.append(0)
            vacuumed.append(vacuum(lake).deleted)

    with hooked(sweep):
        writer.publish("s9", device="d9")
    assert vacuumed == [0, 1], "what was written and not committed is gone"
    assert lake_rows(lake).height == 28
    sound(lake)


def test_a_zombie_beside_a_vacuum_is_refused(lake: LakeSettings) -> None:
    """The fence comes first and the other owner's commit second: the retry must still see that it is not the owner."""
    zombie, owner = Writer(lake), Writer(lake)

    def both(reached: str) -> None:
        if reached == "publish.checked" and not taken:
            taken.append(0)
            vacuum(lake)
            taken.append(owner.publish("s9", device="d9"))

    taken: list[int] = []
    with hooked(both), pytest.raises(LostOwnership):
        zombie.publish("s9", device="d9")
    assert lake_rows(lake).height == 28
    sound(lake)


def test_a_table_that_is_vacuumed_all_the_time_can_be_tried_later(lake: LakeSettings) -> None:
    def sweep(reached: str) -> None:
        if reached == "publish.files":
            vacuum(lake)

    with hooked(sweep), pytest.raises(CommitConflict) as caught:
        Writer(lake).publish("s9", device="d9")
    assert caught.value.retriable
    assert lake_rows(lake).height == 24


def test_of_two_compactions_one_passes(lake: LakeSettings) -> None:
    """delta-rs lets both remove the same files, and each window would be there twice."""
    before = lake_rows(lake)
    other: list[int] = []

    def race(reached: str) -> None:
        if reached == "compact.files" and not other:
            other.append(0)
            other.append(compact(lake).merged)

    with hooked(race), pytest.raises(CommitConflict):
        compact(lake)
    assert other == [0, 6]
    assert lake_rows(lake).equals(before)
    sound(lake)


def test_a_compaction_that_another_overtook_between_days_stops(
    lake: LakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other's commit comes before this one looks at the newest version again: no transaction of theirs conflicts."""
    before = lake_rows(lake)
    other: list[int] = []
    commit = Table.commit

    def overtaken(self: Table, **arguments: Any) -> None:
        commit(self, **arguments)
        if not other:
            other.append(0)
            other.append(compact(lake).merged)
            self.refresh()

    with monkeypatch.context() as patch:
        patch.setattr(Table, "commit", overtaken)
        with pytest.raises(CommitConflict, match="Another compaction"):
            compact(lake)
    assert other == [0, 2]
    assert lake_rows(lake).equals(before)
    sound(lake)


def test_a_compaction_beside_a_vacuum_stops_and_loses_nothing(lake: LakeSettings) -> None:
    before = lake_rows(lake)

    def sweep(reached: str) -> None:
        if reached == "compact.files":
            vacuum(lake)

    with hooked(sweep), pytest.raises(CommitConflict):
        compact(lake)
    assert lake_rows(lake).equals(before)
    sound(lake)
    compact(lake)
    assert lake_rows(lake).equals(before)


def test_a_file_that_cannot_be_written_leaves_everything_as_it_was(
    lake: LakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = lake_rows(lake)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("streaming.storage.os.fsync", full)
        with pytest.raises(LakeError, match="free space"):
            compact(lake)
    assert lake_rows(lake).equals(before)
    compact(lake)
    sound(lake)


def test_all_at_once(lake: LakeSettings) -> None:
    """Two writers, two that compact and one that vacuums without end, and a reader that stays at its version."""
    patient = settings(lake.uri)
    pinned = open_table(Storage(lake, WINDOWS)).version
    before = lake_rows(lake, pinned)
    done = threading.Event()

    def write(partition: TopicPartition) -> None:
        writer = Writer(patient, partition)
        for i in range(8):
            published = False
            while not published:
                with contextlib.suppress(CommitConflict):  # a consumer is started again then
                    published = bool(writer.publish(f"w{partition.partition}-{i}", device="w"))

    def care(task: Callable[[LakeSettings], object]) -> None:
        while not done.is_set():
            with contextlib.suppress(CommitConflict):
                task(patient)

    def read() -> None:
        while not done.is_set():
            assert lake_rows(lake, pinned).equals(before)

    with ThreadPoolExecutor(6) as pool:
        others = [pool.submit(care, compact), pool.submit(care, compact), pool.submit(care, vacuum), pool.submit(read)]
        try:
            for writer in [pool.submit(write, P0), pool.submit(write, P1)]:
                writer.result()
        finally:
            done.set()
        for other in others:
            other.result()
    rows = lake_rows(lake)
    assert rows.height == 24 + 16 * 4
    assert rows["window_id"].is_unique().all()
    sound(lake)


def test_a_damaged_file_is_named_and_not_merged(lake: LakeSettings) -> None:
    file = files(lake)[0]
    content = bytearray(file.read_bytes())
    content[4:200] = bytes(196)
    file.write_bytes(content)
    with pytest.raises(LakeError, match=f"{file.name} cannot be read"):
        compact(lake)
    assert len(open_table(Storage(lake, WINDOWS)).files()) == 6


_CHILD = """
import os, signal, sys
from datetime import timedelta
from streaming.faults import hooked
from streaming.maintenance import compact, vacuum
from streaming.settings import LakeSettings
lake = LakeSettings(uri=sys.argv[1], vacuum_retention=timedelta(0))
count = int(sys.argv[3])
def killed(reached):
    global count
    count -= reached == sys.argv[2]
    if count < 0:
        os.kill(os.getpid(), signal.SIGKILL)
with hooked(killed):
    compact(lake)
    vacuum(lake)
"""


def test_killed_anywhere_the_rows_are_the_same(lake: LakeSettings) -> None:
    """kill -9 at every point in turn, on one lake, with a writer in between."""
    writer = Writer(lake)
    before = lake_rows(lake)
    points = [
        ("compact.files", 0),
        ("compact.committed", 0),
        ("compact.files", 0),
        ("vacuum.fenced", 0),
        ("vacuum.deleted", 1),
    ]
    for number, (point, count) in enumerate(points):
        killed = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", _CHILD, lake.uri, point, str(count)], check=False, cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=120,
        )  # fmt: skip
        assert killed.returncode == -signal.SIGKILL
        assert lake_rows(lake).equals(before)
        sound(lake)
        writer.publish(f"s{number + 10}", device="d9")
        before = pl.concat([before, lake_rows(lake).filter(pl.col("session_id") == f"s{number + 10}")])
        before = before.sort("window_id", "last_offset")
        assert lake_rows(lake).equals(before)
    compact(lake)
    vacuum(lake)
    assert lake_rows(lake).equals(before)
    assert len(files(lake)) == 2
    sound(lake)
