"""Labels as people hand them in: one, or a file of them; checked before they are sent as the consumer will check them."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
from kafka.errors import KafkaError

from streaming.errors import BatchError, ClientError, LabelError
from streaming.label_wire import LABEL_HEADERS, SceneLabel, decode_label, encode_label
from streaming.replay import Producer

_NEEDED = ("device_id", "start", "end", "scene")
_OPTIONAL = ("session_id", "said_by", "said")
_SECOND_NS = 1_000_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def parse_time(value: Any) -> int:
    """A time as ns since the epoch, out of ISO 8601 with its zone, a whole number of ns, or an aware datetime.

    Raises:
        LabelError: it is neither.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lstrip("-").isdecimal():
        return int(value)
    try:
        time = value if isinstance(value, datetime) else datetime.fromisoformat(str(value).strip())
    except ValueError as error:
        msg = f"'{value}' is no time: write 2026-01-31T08:00:00Z, or nanoseconds since 1970"
        raise LabelError(msg) from error
    if time.tzinfo is None:
        msg = f"'{value}' has no time zone: write {time.isoformat()}Z for UTC, or {time.isoformat()}+01:00"
        raise LabelError(msg)
    return (time - _EPOCH) // timedelta(microseconds=1) * 1_000


def checked(label: SceneLabel, *, max_ahead: timedelta, now: datetime) -> SceneLabel:
    """The label, if the consumer would take it.

    Args:
        label: to be sent.
        max_ahead: as ``[windows] max_ahead``.
        now: our clock, aware.

    Raises:
        LabelError: it would become a dead letter; the message says why.
    """
    try:
        return decode_label(encode_label(label), max_ahead_ns=_ns(max_ahead), received_ns=_ns(now - _EPOCH))
    except BatchError as error:
        raise LabelError(error.detail) from error
    except (ValueError, TypeError) as error:  # a number beyond int64, say
        msg = f"it cannot be encoded: {error}"
        raise LabelError(msg) from error


def read_labels(path: Path, *, said_by: str, max_ahead: timedelta, now: datetime) -> tuple[list[SceneLabel], list[str]]:
    """Read a file of labels.

    Args:
        path: ``.csv`` or ``.parquet`` with the columns device_id, start, end, scene and, if you like, session_id, said_by and said.
        said_by: who says so where the file does not say.
        max_ahead: as ``[windows] max_ahead``.
        now: when it is said where the file does not say; an aware datetime.

    Returns:
        The labels, and what is wrong with the others, a line each with the path and the row (of a CSV file the line, from 1; of a
        Parquet file the row, from 0).

    Raises:
        LabelError: it is no such file.
    """
    labels: list[SceneLabel] = []
    refused: list[str] = []
    for where, row in _rows(path):
        try:
            labels.append(checked(_label(row, said_by=said_by, now=now), max_ahead=max_ahead, now=now))
        except LabelError as error:
            refused.append(f"{path}{where}: {error}")
    return labels, refused


def send_labels(producer: Producer, topic: str, labels: Sequence[SceneLabel]) -> None:
    """Send labels and return when Kafka has them.

    Args:
        producer: see :func:`streaming.replay.make_producer`.
        topic: the labels topic.
        labels: checked ones.

    Raises:
        ClientError: Kafka refuses one.
    """
    failed: list[BaseException] = []
    try:
        for label in labels:
            future = producer.send(
                topic, value=encode_label(label), key=label.device_id.encode(), headers=list(LABEL_HEADERS)
            )
            future.add_errback(failed.append)
        producer.flush()
    except KafkaError as error:
        failed.append(error)
    if failed:
        msg = f"A label could not be sent to {topic}: {failed[0]!r}. Send them again: what arrived twice counts once."
        raise ClientError(msg) from failed[0]


def _label(row: Mapping[str, Any], *, said_by: str, now: datetime) -> SceneLabel:
    missing = [name for name in ("device_id", "start", "end") if row.get(name) in {None, ""}]
    if missing:
        msg = f"{missing[0]} is empty"
        raise LabelError(msg)
    said = row.get("said")
    return SceneLabel(
        device_id=str(row["device_id"]),
        session_id=str(row.get("session_id") or "") or None,
        start_ns=parse_time(row["start"]),
        end_ns=parse_time(row["end"]),
        scene=str(row["scene"] or "") or None,
        said_by=str(row.get("said_by") or said_by),
        said_ns=parse_time(now if said in {None, ""} else said),
    )


def _rows(path: Path) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """(where, row) of a file."""
    try:
        if path.suffix == ".csv":
            with path.open(encoding="utf-8-sig", newline="") as file:
                reader = csv.DictReader(file, strict=True, restkey="")
                _check_columns(path, reader.fieldnames or ())
                for row in reader:
                    if "" in row or None in row.values():
                        msg = f"{path}:{reader.line_num}: has another number of fields than the header"
                        raise LabelError(msg)
                    yield f":{reader.line_num}", row
        elif path.suffix == ".parquet":
            frame = pl.read_parquet(path)
            _check_columns(path, frame.columns)
            yield from ((f", row {at}", row) for at, row in enumerate(frame.iter_rows(named=True)))
        else:
            msg = f"{path}: a file of labels is .csv or .parquet"
            raise LabelError(msg)
    except (OSError, UnicodeDecodeError, csv.Error, pl.exceptions.PolarsError) as error:
        msg = f"{path} cannot be read: {error}"
        raise LabelError(msg) from error


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    missing = [name for name in _NEEDED if name not in columns]
    unknown = [name for name in columns if name not in (*_NEEDED, *_OPTIONAL)]
    if missing or unknown or len(set(columns)) != len(columns):
        what = f"lacks {', '.join(missing)}" if missing else f"has {', '.join(unknown) or 'one twice'}"
        msg = f"{path}: its columns are {', '.join(_NEEDED)} and, if you like, {', '.join(_OPTIONAL)}; it {what}"
        raise LabelError(msg)


def _ns(duration: timedelta) -> int:
    return duration // timedelta(microseconds=1) * 1_000
