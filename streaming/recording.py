"""A session on disk: one Parquet file in long form, the exchange format of this project.

A row is one sample of one sensor: ``time_ns``, ``sensor`` and up to three axes (those that the sensor lacks are null),
sorted by time; the other columns say who, with what and doing what, and are constant. Importers and the simulated fleet
write it, the replay reads it. Columns beyond :data:`SCHEMA` are ignored. Rows are counted from 0 in messages.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from streaming.errors import RecordingError
from streaming.sensors import SENSORS
from streaming.wire import MAX_TEXT

_AXES = ("x", "y", "z")
_IDS = ("device_id", "subject_id", "session_id")
_CONSTANTS = (*_IDS, "phone_model", "position", "cohort", "scene")
_NULLABLE = frozenset({"scene"})

SCHEMA = pa.schema(
    [
        pa.field("time_ns", pa.int64(), nullable=False),
        pa.field("sensor", pa.string(), nullable=False),
        *(pa.field(axis, pa.float32()) for axis in _AXES),
        *(pa.field(name, pa.string(), nullable=name in _NULLABLE) for name in _CONSTANTS),
    ]
)
"""The columns of a recording, in order."""


class Samples(NamedTuple):
    """What one sensor measured in one session."""

    time_ns: NDArray[np.int64]
    """(n,) ns since the epoch by the phone's clock, never decreasing."""
    values: NDArray[np.float32]
    """(n, axes) in the sensor's unit; all finite."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Recording:
    """One session of one phone."""

    device_id: str
    """The phone; the Kafka key of its batches."""
    subject_id: str
    """Who carried it; splits are made by it."""
    session_id: str
    """Names the session among those of its device."""
    phone_model: str
    """What kind of phone; free text."""
    position: str
    """Where it was carried: hand, hips, torso, bag, waist, …"""
    cohort: str
    """Which fleet or campaign: ``source``, ``target``, a city."""
    scene: str | None
    """What its owner said to be doing; None if nothing was said."""
    samples: Mapping[str, Samples]
    """Sensor name → its samples."""

    @property
    def size(self) -> int:
        """Samples of all sensors together."""
        return sum(len(samples.time_ns) for samples in self.samples.values())

    @property
    def start_ns(self) -> int:
        """Time of the first sample of any sensor."""
        return min(int(samples.time_ns[0]) for samples in self.samples.values() if len(samples.time_ns))

    @property
    def end_ns(self) -> int:
        """Time of the last sample of any sensor."""
        return max(int(samples.time_ns[-1]) for samples in self.samples.values() if len(samples.time_ns))


def write_recording(path: Path, recording: Recording) -> None:
    """Write a session; the same recording gives the same bytes, and a reader never sees half a file.

    Raises:
        RecordingError: the recording is one that :func:`read_recording` would refuse.
    """
    table = _to_table(path, recording)
    _from_table(path, table)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            pq.write_table(
                table,
                file,
                compression="zstd",
                compression_level=1,
                use_dictionary=["sensor", *_CONSTANTS],
                column_encoding={"time_ns": "DELTA_BINARY_PACKED", **dict.fromkeys(_AXES, "BYTE_STREAM_SPLIT")},
                write_statistics=["time_ns", *_CONSTANTS],
            )
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        msg = f"{path}: cannot be written: {error}"
        raise RecordingError(msg) from error


def read_recording(path: Path) -> Recording:
    """Read and check a session.

    Raises:
        RecordingError: the file is missing or no Parquet; a column is missing or of the wrong type; or a row is
            unsorted, not finite, of an unknown sensor, lacks an axis or has one too many, or changes a constant column.
            The message has the path and the row.
    """
    try:
        schema = pq.read_schema(path)
        _check_schema(path, schema)
        table = pq.read_table(path, columns=SCHEMA.names, read_dictionary=["sensor", *_CONSTANTS], partitioning=None)
    except (OSError, pa.ArrowException) as error:
        msg = f"{path}: not a readable Parquet file: {error}"
        raise RecordingError(msg) from error
    return _from_table(path, table)


def scan(directory: Path) -> Iterator[tuple[Path, Recording | RecordingError]]:
    """Every recording below a folder, sorted by path; one that is refused comes as its error: the rest goes on.

    So does a session that an earlier file has already: its batches have the numbers of that one's, and would be taken for repeats.

    Raises:
        RecordingError: there is no such folder.
    """
    if not directory.is_dir():
        msg = f"{directory}: there is no such folder of recordings"
        raise RecordingError(msg)
    first: dict[tuple[str, str], Path] = {}
    for path in sorted(directory.rglob("*.parquet")):
        try:
            recording = read_recording(path)
        except RecordingError as error:
            yield path, error
            continue
        earlier = first.setdefault((recording.device_id, recording.session_id), path) if recording.size else path
        if earlier is path:
            yield path, recording
        else:
            what = f"session {recording.session_id!r} of device {recording.device_id!r} is in {earlier} already"
            yield path, _error(path, None, f"{what}: one file holds one session, with a name of its own")


def scenes(directory: Path) -> set[str]:
    """The scenes of all recordings below a folder, as far as they can be read.

    Raises:
        RecordingError: there is no such folder.
    """
    found = (recording.scene for _, recording in scan(directory) if isinstance(recording, Recording))
    return {scene for scene in found if scene is not None}


def _to_table(path: Path, recording: Recording) -> pa.Table:
    names = [name for name in SENSORS if name in recording.samples]
    if len(names) < len(recording.samples):
        unknown = sorted(set(recording.samples) - set(names))
        raise _error(path, None, f"unknown sensor '{unknown[0]}'; known: {', '.join(SENSORS)}")
    for name in names:
        _check_samples(path, name, recording.samples[name])
    sizes = [len(recording.samples[name].time_ns) for name in names]
    time_ns = np.concatenate([np.empty(0, np.int64), *(recording.samples[name].time_ns for name in names)])
    order = np.argsort(time_ns, kind="stable")
    codes = np.repeat(np.arange(len(names), dtype=np.int8), sizes)[order]
    axes = {}
    for index, axis in enumerate(_AXES):
        column = np.full(len(time_ns), np.nan, dtype=np.float32)
        absent = np.ones(len(time_ns), dtype=bool)
        stop = 0
        for name, size in zip(names, sizes, strict=True):
            start, stop = stop, stop + size
            if axis in SENSORS[name].axes:
                column[start:stop] = recording.samples[name].values[:, index]
                absent[start:stop] = False
        axes[axis] = pa.array(column[order], mask=absent[order])
    rows = len(time_ns)
    constants = {name: _constant(getattr(recording, name), rows) for name in _CONSTANTS}
    sensor = pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(names, pa.string())).cast(pa.string())
    return pa.table({"time_ns": time_ns[order], "sensor": sensor, **axes, **constants}, schema=SCHEMA)


def _check_samples(path: Path, name: str, samples: Samples) -> None:
    """What the long form could not show, because writing it sorts and reshapes."""
    time_ns, values = samples
    if time_ns.dtype != np.int64 or values.dtype != np.float32:
        raise _error(path, None, f"{name} is {time_ns.dtype} and {values.dtype}; it must be int64 and float32")
    expected = (len(time_ns), len(SENSORS[name].axes))
    if time_ns.ndim != 1 or values.shape != expected:
        raise _error(path, None, f"{name} has values of shape {values.shape}; its times and axes need {expected}")
    if np.any(back := time_ns[1:] < time_ns[:-1]):
        raise _error(path, None, f"{name} is not sorted by time at sample {int(np.argmax(back)) + 1}")


def _constant(value: str | None, rows: int) -> pa.Array:
    return pa.nulls(rows, pa.string()) if value is None else pa.repeat(pa.scalar(value, pa.string()), rows)


def _check_schema(path: Path, schema: pa.Schema) -> None:
    for field in SCHEMA:
        if field.name not in schema.names:
            raise _error(path, None, f"column '{field.name}' is missing; a recording has {', '.join(SCHEMA.names)}")
        found = schema.field(field.name).type
        if found != field.type and not (field.type == pa.string() and _is_text(found)):
            wanted = "float32" if field.type == pa.float32() else field.type
            raise _error(path, None, f"column '{field.name}' is {found}; it must be {wanted}")


def _is_text(kind: pa.DataType) -> bool:
    """Text as other writers (polars, pandas) put it; a null column is what they make of a scene that is never given."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_null(kind)
    )


def _from_table(path: Path, table: pa.Table) -> Recording:
    if table.num_rows == 0:
        raise _error(path, None, "it has no samples")
    time_ns = _times(path, table["time_ns"])
    codes, names = _encoded(table["sensor"])
    _refuse_rows(path, codes < 0, "sensor is null")
    for code, name in enumerate(names):
        if name not in SENSORS:
            _refuse_rows(
                path, codes == code, f"unknown sensor '{name}'; known: {', '.join(SENSORS)}; leave its rows out"
            )
    values = np.stack([_floats(table[axis]) for axis in _AXES], axis=1)
    nulls = np.stack([_nulls(table[axis]) for axis in _AXES], axis=1)
    present = {name: np.flatnonzero(codes == code) for code, name in enumerate(names)}
    samples = {
        name: Samples(time_ns[present[name]], _values(path, name, present[name], values, nulls))
        for name in SENSORS
        if name in present and len(present[name])
    }
    constants = {name: _the_constant(path, name, table[name]) for name in _CONSTANTS}
    return Recording(samples=samples, **constants)


def _times(path: Path, column: pa.ChunkedArray) -> NDArray[np.int64]:
    _refuse_rows(path, _nulls(column), "time_ns is null")
    time_ns: NDArray[np.int64] = column.combine_chunks().to_numpy(zero_copy_only=False)
    _refuse_rows(path, time_ns < 0, "time_ns is before 1970; it counts from the epoch, not from the session's start")
    back = np.concatenate([[False], time_ns[1:] < time_ns[:-1]])
    _refuse_rows(path, back, "time_ns is before the row above; sort the file by time_ns")
    return time_ns


def _values(
    path: Path, name: str, rows: NDArray[np.intp], values: NDArray[np.float32], nulls: NDArray[np.bool_]
) -> NDArray[np.float32]:
    used = len(SENSORS[name].axes)
    for index, axis in enumerate(_AXES):
        absent = nulls[rows, index]
        if index >= used:
            _refuse_rows(path, ~absent, f"{name} has no axis '{axis}': it must be null", rows)
            continue
        _refuse_rows(path, absent, f"{axis} is null, but {name} has axes {', '.join(SENSORS[name].axes)}", rows)
        _refuse_rows(path, ~np.isfinite(values[rows, index]), f"{axis} of {name} is not a finite number", rows)
    return np.ascontiguousarray(values[rows, :used])


def _the_constant(path: Path, name: str, column: pa.ChunkedArray) -> Any:
    codes, texts = _encoded(column)
    differs = codes != codes[0]
    if np.any(differs):
        row = int(np.argmax(differs))
        values = [None if code < 0 else texts[code] for code in (codes[0], codes[row])]
        raise _error(path, row, f"{name} changes from {values[0]!r} to {values[1]!r}; one file holds one session")
    text = None if codes[0] < 0 else texts[codes[0]]
    if text is None and name not in _NULLABLE:
        raise _error(path, 0, f"{name} is null")
    if text is not None and (len(text) > MAX_TEXT or not text.isprintable()):
        raise _error(path, 0, f"{name} must be printable and at most {MAX_TEXT} characters long")
    if not text and name in (*_IDS, "scene") and text is not None:
        raise _error(path, 0, f"{name} is empty")
    return text


def _encoded(column: pa.ChunkedArray) -> tuple[NDArray[np.int64], list[str]]:
    """A text column as codes (n,), -1 for null, and the text of each code."""
    array = column.combine_chunks()
    if pa.types.is_null(array.type):
        return np.full(len(array), -1, dtype=np.int64), []
    if not pa.types.is_dictionary(array.type):
        array = array.dictionary_encode()
    codes = array.indices.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)
    return codes, array.dictionary.to_pylist()


def _floats(column: pa.ChunkedArray) -> NDArray[np.float32]:
    values: NDArray[np.float32] = column.fill_null(np.nan).combine_chunks().to_numpy(zero_copy_only=False)
    return values


def _nulls(column: pa.ChunkedArray) -> NDArray[np.bool_]:
    nulls: NDArray[np.bool_] = pc.is_null(column).combine_chunks().to_numpy(zero_copy_only=False)
    return nulls


def _refuse_rows(path: Path, bad: NDArray[np.bool_], what: str, rows: NDArray[np.intp] | None = None) -> None:
    if np.any(bad):
        first = int(np.argmax(bad))
        raise _error(path, first if rows is None else int(rows[first]), what)


def _error(path: Path, row: int | None, what: str) -> RecordingError:
    return RecordingError(f"{path}: {what}" if row is None else f"{path}, row {row}: {what}")
