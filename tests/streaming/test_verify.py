"""A sound lake is proven, and a planted fault of each kind is found."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from streaming.delta import open_table
from streaming.errors import LakeError, NoTable
from streaming.maintenance import compact
from streaming.offsets import Account
from streaming.publish import write_files
from streaming.storage import Storage
from streaming.tables import LABELS, LABELS_PARTITION_COLUMN, PARTITION_COLUMN, WINDOWS
from streaming.verify import Proof, verify
from streaming.windows import WindowsTable

from .lakes import LABELS0, P0, P1, LabelWriter, Writer, lake_rows, session_rows, settings
from .sessions import SETTINGS


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    """Three commits of one partition and one of another."""
    one, other = Writer(settings(tmp_path)), Writer(settings(tmp_path), P1)
    for name in ("s1", "s2"):
        one.publish(name)
    other.publish("t1", device="d2")
    one.publish("s3")
    return tmp_path


def data_files(lake: Path) -> list[Path]:
    return sorted((lake / WINDOWS).glob("event_date=*/*.parquet"))


def edit_commit(lake: Path, version: int, edit: Callable[[list[dict[str, Any]]], object]) -> None:
    path = lake / WINDOWS / "_delta_log" / f"{version:020d}.json"
    actions = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    edit(actions)
    path.write_text("\n".join(json.dumps(action) for action in actions), "utf-8")


def edit_account(lake: Path, version: int, **values: int) -> None:
    edit_commit(lake, version, lambda actions: actions[0]["commitInfo"]["accounts"][0].update(values))


def only(proof: Proof, *words: str) -> None:
    """Some line has all of the words."""
    assert any(all(word in line for word in words) for line in proof.problems), proof.problems


def test_a_sound_lake_is_proven(lake: Path) -> None:
    proof = verify(str(lake))
    assert proof.problems == ()
    assert (proof.files, proof.rows, proof.partitions, proof.since_version, proof.orphans) == (4, 16, 2, 0, ())
    compact(settings(lake))
    assert verify(str(lake)).problems == ()


def test_no_lake_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(LakeError, match="no table"):
        verify(str(tmp_path))


def test_a_missing_file(lake: Path) -> None:
    data_files(lake)[0].unlink()
    only(verify(str(lake)), data_files(lake)[0].parent.name, "is missing; 4 rows are lost")


def test_a_bit_that_flipped_in_a_page(lake: Path) -> None:
    file = data_files(lake)[0]
    chunks = pq.read_metadata(file).row_group(0)
    signal = next(c for i in range(chunks.num_columns) if (c := chunks.column(i)).path_in_schema.startswith("acc_x"))
    content = bytearray(file.read_bytes())
    content[signal.data_page_offset + signal.total_compressed_size - 3] ^= 1
    file.write_bytes(content)
    only(verify(str(lake)), file.name, "cannot be read", "CRC")
    assert verify(str(lake), pages=False).problems == (), "without the pages nobody looks there"


def test_a_torn_file(lake: Path) -> None:
    file = data_files(lake)[0]
    file.write_bytes(file.read_bytes()[:-100])
    only(verify(str(lake)), file.name, "bytes, the log says")


def test_a_file_with_other_rows(lake: Path) -> None:
    file = data_files(lake)[0]
    size = file.stat().st_size
    pq.write_table(pq.ParquetFile(file).read().slice(1), file)
    content = file.read_bytes()
    edit = lambda actions: [a["add"].update(size=len(content)) for a in actions if file.name in json.dumps(a)]  # noqa: E731
    for version in range(1, 5):
        edit_commit(lake, version, edit)
    assert len(content) != size
    only(verify(str(lake)), file.name, "has 3 rows, the log says 4")
    only(verify(str(lake)), "rows, its accounts add up to")


def test_a_file_that_is_in_the_log_twice(lake: Path) -> None:
    again: list[dict[str, Any]] = []
    edit_commit(lake, 1, lambda actions: again.extend(a for a in actions if "add" in a))
    edit_commit(lake, 2, lambda actions: actions.extend(again))
    only(verify(str(lake)), "was added 2 times, at versions 1, 2")


def plant(lake: Path, rows: Any, account: Account | None) -> None:
    """A commit that a writer with a bug might make."""
    storage = Storage(str(lake), WINDOWS)
    table = open_table(storage)
    files = write_files(storage, rows, partition_column=PARTITION_COLUMN, compression_level=1)
    records = [] if account is None else [account.record(P0)]
    moves = {} if account is None else {P0.application: account.to_offset, P0.commits_application: account.commit}
    table.commit(
        schema=session_rows().schema, add=files, transactions=moves, metadata={"accounts": records} if records else {}
    )


def next_account(lake: Path) -> Account:
    """What a right commit of four batches would say."""
    table = WindowsTable(settings(lake), SETTINGS.sensors)
    found = table.position(P0)
    at = found.offset or 0
    return Account(
        commit=found.commits + 1, from_offset=at, to_offset=at + 4, read_to=at + 4, batches=4, windows=4, rows_before=table.rows(P0),
    )  # fmt: skip


def test_a_window_twice(lake: Path) -> None:
    plant(lake, session_rows("s1"), next_account(lake))
    assert lake_rows(str(lake)).height == 20
    problems = verify(str(lake)).problems
    assert len(problems) == 4
    assert all("is in the table 2 times" in line for line in problems)


def test_a_window_under_two_names(lake: Path) -> None:
    rows = session_rows("s1")
    names = [f"{i:032x}" for i in range(rows.num_rows)]
    plant(lake, rows.set_column(0, rows.schema.field(0), [names]), next_account(lake))
    only(verify(str(lake)), "session s1", "under 2 names")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"from_offset": 14, "to_offset": 18, "read_to": 18}, "a hole, offsets 12 to 14 are in no account"),
        ({"from_offset": 8, "batches": 8}, "an overlap, offsets 8 to 12 are in two accounts"),
        ({"batches": 3}, "settles 12 to 16, but accounts for 3 offsets"),
        ({"commit": 9}, "is commit 9 of its partition, the one before was 3"),
        ({"rows_before": 11}, "found 11 rows, the commit before left 12"),
        ({"windows": 5}, "added 4 rows, its accounts say 5"),
        ({"to_offset": 11, "batches": 0}, "offsets run backwards"),
        ({"read_to": 16, "to_offset": 12, "batches": 0, "windows": 4}, ""),
    ],
)  # fmt: skip
def test_an_account_that_does_not_fit(lake: Path, change: dict[str, int], words: str) -> None:
    account = replace(next_account(lake), **change)
    plant(lake, session_rows("s4", first_offset=12), account)
    if words:
        only(verify(str(lake)), words)
    else:
        assert verify(str(lake)).problems == (), "an open window may hold the offset"


def test_rows_without_an_account(lake: Path) -> None:
    plant(lake, session_rows("s4"), None)
    only(verify(str(lake)), "changes rows, and has no account")
    only(verify(str(lake)), "has 16 rows, its accounts add up to 12")


def test_an_offset_that_the_accounts_do_not_lead_to(lake: Path) -> None:
    def move(actions: list[dict[str, Any]]) -> None:
        for action in actions:
            if action.get("txn", {}).get("appId") == P0.application:
                action["txn"]["version"] = 99

    edit_commit(lake, 4, move)
    only(verify(str(lake)), "its accounts end at offset 12 after 3 commits, the table reads on at 99")


def test_a_row_from_beyond_what_was_read(lake: Path) -> None:
    plant(lake, session_rows("s4", first_offset=70), next_account(lake))
    only(verify(str(lake)), "has a row from offset 73, and was read only up to 16")


def test_a_version_that_is_not_there(lake: Path) -> None:
    open_table(Storage(str(lake), WINDOWS)).shorten_log()
    (lake / WINDOWS / "_delta_log" / f"{2:020d}.json").unlink()
    only(verify(str(lake)), "no version between 1 and 3")


def test_a_log_that_is_torn(lake: Path) -> None:
    (lake / WINDOWS / "_delta_log" / f"{4:020d}.json").write_text('{"commitInfo": {', "utf-8")
    with pytest.raises(LakeError):
        verify(str(lake))


def test_orphans_are_named_and_harmless(lake: Path) -> None:
    leftover = data_files(lake)[0].with_name("part-0.parquet")
    leftover.write_bytes(b"half a fi")
    proof = verify(str(lake))
    assert proof.problems == ()
    assert [Path(path).name for path in proof.orphans] == ["part-0.parquet"]


def test_what_is_left_of_a_shortened_log_is_proven(lake: Path) -> None:
    """The chain starts at the oldest account that is left, which carries the sum of what was before."""
    open_table(Storage(str(lake), WINDOWS)).shorten_log()
    Writer(settings(lake)).publish("s4")
    for version in range(4):
        (lake / WINDOWS / "_delta_log" / f"{version:020d}.json").unlink()
    proof = verify(str(lake))
    assert (proof.problems, proof.since_version) == ((), 4)
    edit_account(lake, 5, rows_before=11)
    only(verify(str(lake)), "found 11 rows, the commit before left 12")


def test_labels_are_proven_like_windows(lake: Path) -> None:
    """Each kind of fault that only a table of labels can have, planted; the windows beside it stay proven."""
    with pytest.raises(NoTable, match="no table labels"):
        verify(str(lake), LABELS)
    writer = LabelWriter(settings(lake))
    writer.publish(3)
    writer.publish(2)
    proof = verify(str(lake), LABELS)
    assert (proof.table, proof.problems, proof.rows, proof.files, proof.partitions) == ("labels", (), 5, 2, 1)
    rows, account = writer.next(2)
    storage = Storage(str(lake), LABELS)
    files = write_files(storage, rows.slice(1), partition_column=LABELS_PARTITION_COLUMN, compression_level=1)
    short = replace(account, windows=1)
    open_table(storage).commit(
        schema=rows.schema, add=files, metadata={"accounts": [short.record(LABELS0)]},
        transactions={LABELS0.application: short.to_offset, LABELS0.commits_application: short.commit},
    )  # fmt: skip
    only(verify(str(lake), LABELS), "sensor.labels[0] at version 3", "2 records gave 1 rows")
    (lake / LABELS / files[0].path).unlink()
    only(verify(str(lake), LABELS), "is missing; 1 rows are lost")
    assert verify(str(lake)).problems == ()


def test_a_label_twice(lake: Path) -> None:
    writer = LabelWriter(settings(lake))
    writer.publish(2)
    rows, account = writer.next(2)
    again = rows.set_column(rows.schema.get_field_index("kafka_offset"), rows.schema.field("kafka_offset"), [[1, 2]])
    writer.table.publish(again, {LABELS0: account})
    only(verify(str(lake), LABELS), "label of sensor.labels[0] at offset 1: is in the table 2 times")
