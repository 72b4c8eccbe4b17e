"""The lake in an S3-compatible store: what holds in a folder holds there."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from streaming.delta import create_table
from streaming.errors import CommitConflict, LakeError, LostOwnership, SettingsError
from streaming.faults import hooked
from streaming.lake import scan_windows, table_version
from streaming.maintenance import compact, vacuum
from streaming.offsets import Account
from streaming.settings import LakeSettings
from streaming.storage import Storage
from streaming.tables import PARTITION_COLUMN, WINDOWS
from streaming.verify import verify
from tests.fixtures.s3 import SECRET
from tests.test_sensorloop import answer, run

from .lakes import P0, Writer, lake_rows, session_rows

NewLake = Callable[..., LakeSettings]


def account(commit: int, after: int, to: int, windows: int, before: int) -> Account:
    return Account(
        commit=commit, from_offset=after, to_offset=to, read_to=to, batches=to - after, windows=windows, rows_before=before,
    )  # fmt: skip


def test_what_is_published_is_read_back_at_each_version(new_s3_lake: NewLake) -> None:
    lake = new_s3_lake()
    writer = Writer(lake)
    first = writer.publish("s1")
    writer.publish("s2")
    assert table_version(lake) == first + 1
    assert lake_rows(lake, first)["session_id"].unique().to_list() == ["s1"]
    assert lake_rows(lake).height == 8
    assert Writer(lake).table.offset(P0) == 8
    assert verify(lake).problems == ()


def test_a_zombie_is_refused(new_s3_lake: NewLake) -> None:
    lake = new_s3_lake()
    zombie, owner = Writer(lake), Writer(lake)
    zombie.publish("s1")
    owner.publish("s2")
    with pytest.raises(LostOwnership):
        zombie.table.publish(session_rows("s2"), {P0: account(2, 4, 8, 4, 4)})
    assert lake_rows(lake).height == 8


def test_two_owners_at_the_same_moment_one_passes(new_s3_lake: NewLake) -> None:
    lake = new_s3_lake()
    zombie, owner = Writer(lake), Writer(lake)
    zombie.publish("s1")
    raced: list[int] = []

    def race(point: str) -> None:
        if point == "publish.checked" and not raced:
            raced.append(0)
            raced.append(owner.publish("s2"))

    with hooked(race), pytest.raises(LostOwnership):
        zombie.publish("s2")
    assert len(raced) == 2
    assert lake_rows(lake).height == 8
    assert verify(lake).problems == ()


def test_of_many_commits_of_one_version_the_store_takes_one(new_s3_lake: NewLake) -> None:
    """Really at the same moment: the conditional put decides."""
    storage = Storage(new_s3_lake(), WINDOWS)
    schema = session_rows().schema
    tables = [create_table(storage, schema, partition_by=[PARTITION_COLUMN]) for _ in range(6)]
    passed: list[int] = []
    refused: list[int] = []
    start = threading.Barrier(len(tables))

    def commit(number: int) -> None:
        start.wait()
        try:
            tables[number].commit(schema=schema, transactions={"one": 1}, metadata={})
            passed.append(number)
        except CommitConflict:
            refused.append(number)

    threads = [threading.Thread(target=commit, args=(number,)) for number in range(len(tables))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(passed), len(refused)) == (1, 5)


def test_compaction_and_vacuum(new_s3_lake: NewLake) -> None:
    lake = new_s3_lake(vacuum_retention=timedelta(0))
    writer = Writer(lake)
    for name in ("s1", "s2", "s3"):
        writer.publish(name)
    before = lake_rows(lake)
    assert compact(lake).merged == 3
    assert vacuum(replace(lake, vacuum_retention=timedelta(days=7))).deleted == 0
    assert vacuum(lake).deleted == 3
    assert lake_rows(lake).equals(before)
    proof = verify(lake)
    assert (proof.problems, proof.files, proof.orphans) == ((), 1, ())


def test_an_object_that_is_gone_is_found(new_s3_lake: NewLake) -> None:
    lake = new_s3_lake()
    Writer(lake).publish("s1")
    storage = Storage(lake, WINDOWS)
    (file,) = [file for file in storage.files() if file.path.endswith(".parquet")]
    storage.delete(file.path)
    assert any("is missing" in line for line in verify(lake).problems)


def test_the_command_with_its_secret_in_a_file(new_s3_lake: NewLake, tmp_path: Path) -> None:
    lake = new_s3_lake()
    Writer(lake).publish("s1")
    (tmp_path / "secret").write_text(f"{SECRET}\n", encoding="utf-8")
    (tmp_path / "sensorloop.toml").write_text(
        f"""[lake]
uri = "{lake.uri}"
s3_endpoint = "{lake.s3_endpoint}"
s3_region = "us-east-1"
s3_access_key_id = "k"
s3_secret_access_key = "file:secret"
""",
        encoding="utf-8",
    )
    found = answer(run(tmp_path, "lake", "verify"))
    assert (found["rows"], found["problems"]) == (4, [])


def test_no_lake_and_no_bucket_are_clear_errors(new_s3_lake: NewLake) -> None:
    lake = new_s3_lake()
    with pytest.raises(LakeError, match=r"no table windows in the lake s3://"):
        scan_windows(lake)
    with pytest.raises(LakeError) as caught:
        scan_windows(replace(lake, uri="s3://there-is-no-such-bucket/lake"))
    message = str(caught.value)
    assert "there-is-no-such-bucket" in message
    assert "\x1b" not in message
    assert "<" not in message
    assert SECRET not in message


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"s3_secret_access_key": "top-secret"}, "must say where the secret is"),
        ({"s3_secret_access_key": "env:NOT_SET"}, "the environment has no NOT_SET"),
        ({"s3_secret_access_key": "file:/nowhere/secret"}, "'file:/nowhere/secret' cannot be read"),
        ({"s3_secret_access_key": ""}, "belong together"),
        ({"uri": "gs://bucket/lake"}, "a folder or s3://bucket/prefix"),
    ],
)
def test_settings_that_cannot_be_meant(values: dict[str, str], words: str) -> None:
    lake = LakeSettings(**{"uri": "s3://bucket/lake", "s3_access_key_id": "k", **values})  # type: ignore[arg-type]
    with pytest.raises(SettingsError) as caught:
        scan_windows(lake)
    assert words in str(caught.value)
    assert "top-secret" not in str(caught.value)


def test_a_secret_in_the_settings_is_not_repeated(tmp_path: Path) -> None:
    """Neither one that stands there by mistake nor one that looks like a number."""
    for value in ("top-secret-1234", "12345678"):
        done = run(
            tmp_path, "lake", "verify", SENSORLOOP_LAKE__URI="s3://b/l", SENSORLOOP_LAKE__S3_ACCESS_KEY_ID="k",
            SENSORLOOP_LAKE__S3_SECRET_ACCESS_KEY=value, SENSORLOOP_LAKE__FILE_BYTES="0" if value.isdigit() else "1",
        )  # fmt: skip
        assert done.returncode == 3
        assert value not in done.stderr + done.stdout
        assert "error: " in done.stderr
