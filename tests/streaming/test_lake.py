from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable

from streaming.delta import Table, create_table
from streaming.errors import CommitConflict, LakeError, LostOwnership
from streaming.faults import hooked
from streaming.lake import read_quality, scan_windows, scored_windows, table_version, write_quality
from streaming.offsets import Account
from streaming.settings import LakeSettings
from streaming.storage import Storage
from streaming.tables import NO_LABELS, QUALITY, QUALITY_SCHEMA, SIGNAL
from streaming.windows import WindowsTable

from .lakes import P0, P1, session_rows
from .sessions import EPOCH, SECOND, SETTINGS


def rows(session: str = "s1", seconds: int = 4, start_ns: int = EPOCH) -> pa.Table:
    return session_rows(session, seconds, start_ns=start_ns, first_offset=100)


def to(offset: int, *, after: int = 0, commit: int = 1, windows: int = 0, rows_before: int = 0) -> Account:
    """What a commit says that moves the offset from ``after`` to ``offset``."""
    return Account(
        commit=commit, from_offset=after, to_offset=offset, read_to=offset, batches=offset - after, windows=windows,
        rows_before=rows_before,
    )  # fmt: skip


def table(folder: Path) -> WindowsTable:
    return WindowsTable(LakeSettings(uri=str(folder)), SETTINGS.sensors)


def test_what_is_published_is_read_back(tmp_path: Path) -> None:
    lake = table(tmp_path)
    assert lake.offset(P0) is None
    sent = rows()
    version = lake.publish(sent, {P0: to(104)})
    assert lake.offset(P0) == 104
    assert table_version(str(tmp_path)) == version
    back = scan_windows(str(tmp_path)).sort("start_ns").collect().to_arrow()
    assert back["window_id"].to_pylist() == sent["window_id"].to_pylist()
    assert pl.from_arrow(back["acc_x"]).equals(pl.from_arrow(sent["acc_x"]))
    assert back["pre"].null_count == back.num_rows, "an absent sensor is null"
    assert back["first_offset"].to_pylist() == [100, 100, 101, 102]
    assert back["last_offset"].to_pylist() == [102, 103, 103, 103]
    assert sent.schema.field("acc_x").type == SIGNAL


def test_a_version_that_is_not_there_yet_is_answered_with_the_newest(tmp_path: Path) -> None:
    lake = table(tmp_path)
    newest = lake.publish(rows(), {P0: to(104)})
    assert scan_windows(str(tmp_path), version=newest).collect().height == 4
    for version in (newest + 1, 2**40, -1):
        with pytest.raises(LakeError, match=rf"windows has no version {version}: its newest is {newest}\.$"):
            scan_windows(str(tmp_path), version=version)


@pytest.mark.parametrize("name", ["with a blank", "Köln", "100%", "x#y", "it's {here}", "a+b&c"])
def test_a_lake_may_be_anywhere(tmp_path: Path, name: str) -> None:
    lake = table(tmp_path / name)
    first = lake.publish(rows(), {P0: to(104)})
    lake.publish(rows("s2"), {P0: to(108, after=104, commit=2)})
    uri = str(tmp_path / name)
    assert scan_windows(uri).collect().height == 8
    assert scan_windows(uri, first).filter(session_id="s1").collect().height == 4
    assert len(table(tmp_path / name).sessions(P0, SETTINGS.hop_ns)) == 2
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["a*b", "what?", "a[b]", "a%20b"])
def test_a_folder_that_could_not_be_read_again_is_refused_before_anything_is_written(tmp_path: Path, name: str) -> None:
    for use in (table, lambda folder: scan_windows(str(folder))):
        with pytest.raises(LakeError, match=r"The lake cannot be in .*Set \[lake\] uri"):
            use(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_version_stays_what_it_was(tmp_path: Path) -> None:
    lake = table(tmp_path)
    first = lake.publish(rows(), {P0: to(104)})
    lake.publish(rows("s2"), {P0: to(108, after=104, commit=2)})
    assert scan_windows(str(tmp_path), first).collect().height == 4
    assert scan_windows(str(tmp_path)).collect().height == 8


def test_days_are_partitions(tmp_path: Path) -> None:
    midnight = (EPOCH // (86_400 * SECOND) + 1) * 86_400 * SECOND
    table(tmp_path).publish(rows(start_ns=midnight - 2 * SECOND), {P0: to(104)})
    days = scan_windows(str(tmp_path)).group_by("event_date").len().sort("event_date").collect()
    assert days["len"].to_list() == [2, 2]


def test_offsets_alone_are_published_too(tmp_path: Path) -> None:
    lake = table(tmp_path)
    lake.publish(rows().slice(0, 0), {P0: to(7), P1: to(9)})
    assert (table(tmp_path).offset(P0), table(tmp_path).offset(P1)) == (7, 9)


def test_the_second_owner_is_refused(tmp_path: Path) -> None:
    zombie, owner = table(tmp_path), table(tmp_path)
    zombie.publish(rows(), {P0: to(104)})
    owner.publish(rows("s2"), {P0: to(108, after=104, commit=2)})
    with pytest.raises(LostOwnership, match=r"sensor.batches\[0\].*104.*108"):
        zombie.publish(rows("s3"), {P0: to(112, after=104, commit=2)})
    assert scan_windows(str(tmp_path)).select("session_id").unique().collect().height == 2


def test_two_owners_at_the_same_moment_one_passes(tmp_path: Path) -> None:
    """Both have checked the offset before either commits: Delta itself must refuse the second."""
    zombie, owner = table(tmp_path), table(tmp_path)
    zombie.publish(rows(), {P0: to(104)})
    owner.offset(P0)
    raced = []

    def race(point: str) -> None:
        if point == "publish.checked" and not raced:
            raced.append(0)
            raced.append(owner.publish(rows("s2"), {P0: to(104, after=104, commit=2)}))

    with hooked(race), pytest.raises(LostOwnership):
        zombie.publish(rows("s3"), {P0: to(104, after=104, commit=2)})
    assert raced
    assert scan_windows(str(tmp_path)).select("session_id").unique().collect().height == 2


def test_a_zombie_is_refused_where_the_offset_stayed(tmp_path: Path) -> None:
    """An open window holds the offset: the owner's commit and the zombie's leave the same number, and it was that before."""
    zombie, owner = table(tmp_path), table(tmp_path)
    zombie.publish(rows(), {P0: to(104)})
    owner.publish(rows("s2"), {P0: to(104, after=104, commit=2)})
    with pytest.raises(LostOwnership, match=r"104 after 1 commits.*104 after 2"):
        zombie.publish(rows("s2"), {P0: to(104, after=104, commit=2)})
    assert scan_windows(str(tmp_path)).collect()["window_id"].is_unique().all()


def test_owners_of_different_partitions_do_not_disturb_each_other(tmp_path: Path) -> None:
    one, other = table(tmp_path), table(tmp_path)
    for i in range(3):
        one.publish(rows(f"a{i}"), {P0: to(i + 1, after=i, commit=i + 1)})
        other.publish(rows(f"b{i}"), {P1: to(i + 1, after=i, commit=i + 1)})
    assert scan_windows(str(tmp_path)).collect().height == 6 * 4


@pytest.mark.parametrize("broken", ["fsync", "write_table"])
def test_a_full_disk_publishes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    lake = table(tmp_path)
    lake.publish(rows(), {P0: to(104)})

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(
            {"fsync": "streaming.storage.os.fsync", "write_table": "streaming.layout.pq.write_table"}[broken], full
        )
        with pytest.raises(LakeError, match="free space"):
            lake.publish(rows("s2"), {P0: to(108, after=104, commit=2)})
    assert (table(tmp_path).offset(P0), scan_windows(str(tmp_path)).collect().height) == (104, 4)
    lake.publish(rows("s2"), {P0: to(108, after=104, commit=2)})
    assert scan_windows(str(tmp_path)).collect().height == 8


def test_files_folders_and_log_are_on_disk_before_anybody_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[str] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        flushed.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()).removeprefix(f"{tmp_path}/windows"))
        fsync(descriptor)

    lake = table(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("streaming.storage.os.fsync", note)
        lake.publish(rows(), {P0: to(104)})
    (file,) = (tmp_path / "windows").glob("*/*.parquet")
    day = f"/{file.parent.name}"
    assert flushed == [f"{day}/{file.name}", day, "", f"/_delta_log/{1:020d}.json", "/_delta_log"]


def test_a_commit_whose_answer_is_lost_is_not_published_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It took effect, and the writer was told that it failed: the writer is not the owner of what it left any more."""
    lake = table(tmp_path)
    commit = Table.commit

    def lost(self: Table, **arguments: Any) -> None:
        commit(self, **arguments)
        msg = "the connection broke"
        raise LakeError(msg)

    with monkeypatch.context() as patch:
        patch.setattr(Table, "commit", lost)
        with pytest.raises(LakeError, match="connection"):
            lake.publish(rows(), {P0: to(104)})
    with pytest.raises(LostOwnership):
        lake.publish(rows(), {P0: to(104)})
    assert scan_windows(str(tmp_path)).collect().height == 4


def test_a_commit_that_a_store_took_and_then_refused_is_known_by_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = table(tmp_path)
    commit = Table.commit

    def refused(self: Table, **arguments: Any) -> None:
        commit(self, **arguments)
        msg = "the version is there already"
        raise CommitConflict(msg)

    with monkeypatch.context() as patch:
        patch.setattr(Table, "commit", refused)
        lake.publish(rows(), {P0: to(104)})
        with pytest.raises(LostOwnership):
            lake.publish(rows().slice(0, 0), {P0: to(104, after=104, commit=2)})
    assert scan_windows(str(tmp_path)).collect().height == 4


def test_what_the_table_remembers_of_sessions(tmp_path: Path) -> None:
    lake = table(tmp_path)
    lake.publish(rows(), {P0: to(104)})
    ((key, memory),) = lake.sessions(P0, SETTINGS.hop_ns).items()
    assert key == ("d1", "s1")
    assert memory.next_start_ns == EPOCH + 4 * SECOND
    assert memory.next_sequence == 4
    assert lake.sessions(P1, SETTINGS.hop_ns) == {}


def test_other_sensors_are_refused(tmp_path: Path) -> None:
    table(tmp_path)
    with pytest.raises(LakeError, match="mag_x"):
        WindowsTable(LakeSettings(uri=str(tmp_path)), ("accelerometer", "magnetometer"))


def test_windows_that_are_cut_otherwise_are_refused(tmp_path: Path) -> None:
    """Of two kinds in one lake nothing could be learned together, and the newest version of it not be read."""
    other = replace(SETTINGS, length=2 * SETTINGS.length)
    empty = table(tmp_path)
    empty.require_cut(other)
    empty.publish(rows(), {P0: to(104)})
    lake = table(tmp_path)
    lake.require_cut(SETTINGS)
    lake.require_cut(replace(SETTINGS, hop=SETTINGS.length))
    with pytest.raises(
        LakeError, match=r"has windows of 2 s at 20 Hz, and \[windows\] says 4 s at 20 Hz. Set length"
    ) as caught:
        lake.require_cut(other)
    assert str(tmp_path) in str(caught.value)
    with pytest.raises(LakeError, match="says 2 s at 40 Hz"):
        lake.require_cut(replace(SETTINGS, rate_hz=2 * SETTINGS.rate_hz))


def test_a_length_that_is_no_binary_fraction_is_the_same_when_it_comes_again(tmp_path: Path) -> None:
    """230 ÷ 2.3 is not 100."""
    cut = replace(SETTINGS, length=timedelta(seconds=2.3), hop=timedelta(seconds=2.3), rate_hz=100)
    lake, sent = table(tmp_path), rows()
    frame = pl.DataFrame(sent).with_columns(
        end_ns=pl.col("start_ns") + cut.length_ns,
        **{axis: pl.lit([0.0] * 230, pl.List(pl.Float32)) for axis in ("acc_x", "acc_y", "acc_z")},
    )
    lake.publish(frame.to_arrow().cast(sent.schema), {P0: to(104)})
    table(tmp_path).require_cut(cut)
    with pytest.raises(LakeError, match=r"has windows of 2\.3 s at 100 Hz"):
        lake.require_cut(SETTINGS)


def test_signal_columns_are_byte_stream_split(tmp_path: Path) -> None:
    table(tmp_path).publish(rows(), {P0: to(104)})
    (file,) = (tmp_path / "windows").glob("*/*.parquet")
    group = pa.parquet.ParquetFile(file).metadata.row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    assert "BYTE_STREAM_SPLIT" in columns["acc_x.list.element"].encodings
    assert columns["acc_x.list.element"].statistics is None
    assert columns["start_ns"].statistics is not None
    actions = pa.table(DeltaTable(str(tmp_path / "windows")).get_add_actions(flatten=True)).to_pylist()
    assert actions[0]["num_records"] == 4
    assert actions[0]["min.start_ns"] == EPOCH


@pytest.mark.parametrize("read", [table_version, scan_windows, lambda uri: read_quality(uri, "k")])
def test_no_lake_is_a_clear_error(tmp_path: Path, read: Callable[[str], object]) -> None:
    with pytest.raises(LakeError, match="no table"):
        read(str(tmp_path))


def scores(key: str, *labels: str, lake_version: int = 3, labels_version: int | None = None) -> pa.Table:
    """Of windows a, b, …"""
    count = len(labels)
    columns: dict[str, Any] = {
        "run_key": [key] * count, "window_id": list("abcdef"[:count]), "label": list(labels), "subject_id": ["p"] * count,
        "score": [0.5] * count, "tier": [1] * count, "model": ["m"] * count, "lake_version": [lake_version] * count,
        "labels_version": [labels_version] * count,
    }  # fmt: skip
    return pa.table([pa.array(columns.get(f.name, [None] * count), f.type) for f in QUALITY_SCHEMA], QUALITY_SCHEMA)


def test_a_rescoring_is_written_once(tmp_path: Path) -> None:
    uri = str(tmp_path / "with a blank")
    version = write_quality(uri, scores("k1", "Walk", "Run"))
    assert write_quality(uri, scores("k1", "Walk", "Run")) == version
    assert read_quality(uri, "k1")["window_id"].to_list() == ["a", "b"]
    assert read_quality(uri, "k2").height == 0


def known(uri: str, *run_keys: str) -> dict[str, str]:
    return dict(scored_windows(uri, run_keys or ("k1", "k2", "k3")).rows())


def test_what_was_scored_last_is_what_is_known(tmp_path: Path) -> None:
    """Last by the lake's versions, whenever it was scored."""
    uri = str(tmp_path)
    assert known(uri) == {}
    write_quality(uri, scores("k2", "Bus", labels_version=2))
    write_quality(uri, scores("k1", "Walk", "Run", labels_version=1))
    assert known(uri) == {"a": "Bus", "b": "Run"}
    write_quality(uri, scores("k3", "Still", lake_version=4, labels_version=NO_LABELS))
    assert known(uri) == {"a": "Still", "b": "Run"}
    assert known(uri, "k1", "k2") == {"a": "Bus", "b": "Run"}, "of these rescorings only"
    assert known(uri, "k4") == {}


def test_what_was_too_sparse_to_be_scored_is_not_known_whether_its_person_is_held_out_or_not(tmp_path: Path) -> None:
    uri, made = str(tmp_path), scores("k1", "Walk", "Run", "Bus")
    for name, values in (("score", [0.0, 0.0, 0.0]), ("weight", [0.0, None, None]), ("margin", [None, None, 0.0])):
        at = QUALITY_SCHEMA.get_field_index(name)
        made = made.set_column(at, QUALITY_SCHEMA.field(at), pa.array(values, QUALITY_SCHEMA.field(at).type))
    write_quality(uri, made)
    assert known(uri) == {"c": "Bus"}


def test_a_quality_table_from_before_labels_could_come_later_is_read_and_written(tmp_path: Path) -> None:
    uri = str(tmp_path)
    older = pa.schema([field for field in QUALITY_SCHEMA if field.name != "labels_version"])
    table = create_table(Storage(uri, QUALITY), older)
    table.append(scores("k1", "Walk", "Run").select(older.names), {"sensorloop/quality/k1": 1})
    assert known(uri) == {"a": "Walk", "b": "Run"}
    write_quality(uri, scores("k2", "Bus", labels_version=0))
    assert known(uri) == {"a": "Bus", "b": "Run"}
    assert read_quality(uri, "k1")["labels_version"].to_list() == [None, None]
