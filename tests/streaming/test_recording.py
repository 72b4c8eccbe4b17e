from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.errors import RecordingError
from streaming.recording import SCHEMA, Recording, Samples, read_recording, scan, write_recording
from streaming.sensors import SENSORS

START = 1_700_000_000_000_000_000


def recording(sizes: dict[str, int] | None = None, *, seed: int = 0, scene: str | None = "Walk") -> Recording:
    rng = np.random.default_rng(seed)
    samples = {
        name: Samples(
            START + np.sort(rng.integers(0, 10**9, size)),
            rng.normal(size=(size, len(SENSORS[name].axes))).astype(np.float32),
        )
        for name, size in (sizes or {"accelerometer": 20, "pressure": 5}).items()
    }
    return Recording(
        device_id="d1", subject_id="p1", session_id="s1", phone_model="Aster 9", position="hips", cohort="source",
        scene=scene, samples=samples,
    )  # fmt: skip


def assert_same(one: Recording, other: Recording) -> None:
    assert set(one.samples) == set(other.samples)
    for name, samples in one.samples.items():
        np.testing.assert_array_equal(samples.time_ns, other.samples[name].time_ns)
        np.testing.assert_array_equal(samples.values, other.samples[name].values)
    for name in ("device_id", "subject_id", "session_id", "phone_model", "position", "cohort", "scene"):
        assert getattr(one, name) == getattr(other, name)


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.dictionaries(st.sampled_from(sorted(SENSORS)), st.integers(1, 60), min_size=1),
    seed=st.integers(0, 1000),
    scene=st.none() | st.just("Bus"),
)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, sizes: dict[str, int], seed: int, scene: str | None
) -> None:
    path = tmp_path_factory.mktemp("recordings") / "a.parquet"
    written = recording(sizes, seed=seed, scene=scene)
    write_recording(path, written)
    assert_same(read_recording(path), written)
    assert written.size == sum(sizes.values())


def test_the_file_is_the_documented_one(tmp_path: Path) -> None:
    write_recording(tmp_path / "a.parquet", recording())
    assert pq.read_schema(tmp_path / "a.parquet").equals(SCHEMA)
    frame = pl.read_parquet(tmp_path / "a.parquet")
    assert frame["time_ns"].is_sorted()
    assert frame.filter(sensor="pressure").select("y", "z").null_count().row(0) == (5, 5)


def test_the_same_recording_is_the_same_bytes_and_nothing_else_is_left(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_recording(tmp_path / f"{name}.parquet", recording())
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.parquet", "b.parquet"]


def test_other_writers_kinds_of_text_are_understood(tmp_path: Path) -> None:
    write_recording(tmp_path / "a.parquet", recording(scene=None))
    pl.read_parquet(tmp_path / "a.parquet").with_columns(
        pl.lit(None).alias("scene"), pl.col("device_id").cast(pl.Categorical), pl.lit(1).alias("note")
    ).write_parquet(tmp_path / "b.parquet")
    assert_same(read_recording(tmp_path / "b.parquet"), recording(scene=None))


def put(column: str, row: int, value: object) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        values = table[column].to_pylist()
        values[row] = value
        index = table.schema.get_field_index(column)
        return table.set_column(
            index, pa.field(column, table.schema.field(column).type), pa.array(values, SCHEMA.field(column).type)
        )

    return change


def cast(column: str, kind: pa.DataType) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        index = table.schema.get_field_index(column)
        return table.set_column(index, column, table[column].cast(kind))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("time_ns", 7, START - 1), r"row 7: time_ns is before the row above"),
        (put("time_ns", 0, -5), r"row 0: time_ns is before 1970"),
        (put("time_ns", 3, None), r"row 3: time_ns is null"),
        (put("x", 4, float("nan")), r"row 4: x of accelerometer is not a finite number"),
        (put("z", 5, float("inf")), r"row 5: z of accelerometer is not a finite number"),
        (put("y", 6, None), r"row 6: y is null, but accelerometer has axes x, y, z"),
        (put("sensor", 2, "barometer"), r"row 2: unknown sensor 'barometer'; known: accelerometer, "),
        (put("sensor", 2, None), r"row 2: sensor is null"),
        (put("sensor", 8, "pressure"), r"row 8: pressure has no axis 'y'"),
        (put("device_id", 9, "d2"), r"row 9: device_id changes from 'd1' to 'd2'"),
        (put("scene", 9, None), r"row 9: scene changes from 'Walk' to None"),
        (cast("x", pa.float64()), r"column 'x' is double; it must be float"),
        (cast("time_ns", pa.timestamp("ns")), r"column 'time_ns' is timestamp\[ns\]; it must be int64"),
        (lambda table: table.drop(["session_id"]), r"column 'session_id' is missing"),
        (lambda table: table.slice(0, 0), r"it has no samples"),
    ],
)  # fmt: skip
def test_a_bad_recording_is_refused_with_file_and_row(
    tmp_path: Path, change: Callable[[pa.Table], pa.Table], message: str
) -> None:
    path = tmp_path / "bad.parquet"
    write_recording(path, recording({"accelerometer": 20}))
    pq.write_table(change(pq.read_table(path)), path)
    with pytest.raises(RecordingError, match=rf"bad\.parquet(, |: ){message}"):
        read_recording(path)


@pytest.mark.parametrize(
    ("name", "text"), [("subject_id", ""), ("scene", ""), ("position", "x" * 65), ("cohort", "a\nb")]
)
def test_texts_that_a_phone_could_not_send_are_refused(tmp_path: Path, name: str, text: str) -> None:
    with pytest.raises(RecordingError, match=name):
        write_recording(tmp_path / "a.parquet", replace(recording(), **{name: text}))
    assert not list(tmp_path.iterdir())


TIMES, VALUES = recording().samples["accelerometer"]


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ({"accelerometer": Samples(TIMES[::-1].copy(), VALUES)}, "not sorted by time at sample"),
        ({"accelerometer": Samples(TIMES, VALUES.astype(np.float64))}, "float64; it must be int64 and float32"),
        ({"accelerometer": Samples(TIMES, VALUES[:, :2])}, r"shape \(20, 2\)"),
        ({"accelerometer": Samples(TIMES[1:], VALUES)}, r"shape \(20, 3\)"),
        ({"thermometer": Samples(TIMES, VALUES)}, "unknown sensor 'thermometer'"),
        ({"accelerometer": Samples(TIMES, np.full_like(VALUES, np.nan))}, "row 0: x of accelerometer is not a finite"),
        ({}, "it has no samples"),
    ],
)
def test_nothing_is_written_that_would_be_refused(tmp_path: Path, samples: dict[str, Samples], message: str) -> None:
    with pytest.raises(RecordingError, match=message):
        write_recording(tmp_path / "a.parquet", replace(recording(), samples=samples))
    assert not list(tmp_path.iterdir())


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.parquet"
    write_recording(path, recording())
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(RecordingError, match=r"a\.parquet: cannot be written: .*No space left"):
        write_recording(path, recording(seed=1))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordingError, match=r"a\.parquet: cannot be written"):
        write_recording(tmp_path / "file" / "a.parquet", recording())


def test_scan_goes_on_after_a_refusal(tmp_path: Path) -> None:
    for name in ("b", "sub/a", "c"):
        write_recording(tmp_path / f"{name}.parquet", replace(recording(), session_id=name))
    (tmp_path / "b.parquet").write_bytes(b"PAR1 and then nothing")
    (tmp_path / "notes.txt").write_text("not a recording")
    found = {path.relative_to(tmp_path).as_posix(): what for path, what in scan(tmp_path)}
    assert list(found) == ["b.parquet", "c.parquet", "sub/a.parquet"]
    assert isinstance(found["b.parquet"], RecordingError)
    assert isinstance(found["c.parquet"], Recording)
    assert isinstance(found["sub/a.parquet"], Recording)


def test_a_session_that_another_file_has_already_is_refused(tmp_path: Path) -> None:
    """Its batches have the same numbers: they would be taken for repeats of the first's, and be lost without a word."""
    write_recording(tmp_path / "a.parquet", recording())
    write_recording(tmp_path / "b.parquet", replace(recording(), scene="Run"))
    write_recording(tmp_path / "c.parquet", replace(recording(), session_id="another"))
    write_recording(tmp_path / "d.parquet", replace(recording(), device_id="another"))
    found = [each for _, each in scan(tmp_path)]
    assert [isinstance(each, Recording) for each in found] == [True, False, True, True]
    assert str(found[1]).endswith(
        f"is in {tmp_path}/a.parquet already: one file holds one session, with a name of its own"
    )


def test_a_missing_folder_or_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="no such folder"):
        next(scan(tmp_path / "nowhere"))
    with pytest.raises(RecordingError, match=r"nothing\.parquet: not a readable Parquet file"):
        read_recording(tmp_path / "nothing.parquet")
