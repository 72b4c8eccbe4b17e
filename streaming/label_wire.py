"""A label as bytes and back: Protobuf ``sensorloop.v1.SceneLabel``, plain or in Confluent's wire framing.

A label says what a phone was doing from here to there, and comes when somebody gets round to it: minutes or months after the
signals. As with batches, :func:`decode_label` returns one that can be relied upon or raises :class:`BatchError`.
"""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.message import DecodeError

from streaming.errors import BatchError
from streaming.scene_label_pb2 import SceneLabel as _Label
from streaming.wire import MAX_TEXT, Reason, unframed

LABEL_CONTENT_TYPE = 'application/x-protobuf; messageType="sensorloop.v1.SceneLabel"'
"""Names the format in the Kafka record's headers."""
LABEL_HEADERS: tuple[tuple[str, bytes], ...] = (("content-type", LABEL_CONTENT_TYPE.encode()),)
"""Headers of every record that carries a label."""
MAX_LABEL_BYTES = 4_096
"""A longer value is refused before it is parsed; four texts of :data:`MAX_TEXT` characters and three numbers take 1.1 KB at most."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneLabel:
    """What somebody said of an interval of a device's time."""

    device_id: str
    """The phone; the Kafka key."""
    start_ns: int
    """Event time, ns since the epoch."""
    end_ns: int
    """Excluded."""
    scene: str | None
    """What it was doing; None withdraws what was said before."""
    said_by: str
    """Who says so: a person or a program."""
    said_ns: int
    """When, ns since the epoch: the newest label of a window wins."""
    session_id: str | None = None
    """Of this session only; None: of whatever the device recorded in that time."""


def encode_label(label: SceneLabel) -> bytes:
    """The label as plain Protobuf, the value of its Kafka record; the key is ``label.device_id``."""
    message = _Label(
        device_id=label.device_id,
        session_id=label.session_id or "",
        start_ns=label.start_ns,
        end_ns=label.end_ns,
        scene=label.scene or "",
        said_by=label.said_by,
        said_ns=label.said_ns,
    )
    return message.SerializeToString()


def decode_label(value: bytes | None, *, max_ahead_ns: int, received_ns: int) -> SceneLabel:
    """Read and check the value of a Kafka record.

    Args:
        value: plain Protobuf or Confluent's framing; None is what Kafka calls a tombstone.
        max_ahead_ns: how far its times may be after ``received_ns``. A label said in a year to come would win for ever.
        received_ns: the Kafka record's own timestamp, ns since the epoch.

    Raises:
        BatchError: its ``reason`` is a :class:`streaming.wire.Reason`.
    """
    if not value:
        raise BatchError(Reason.EMPTY, "the record has no value")
    if len(value) > MAX_LABEL_BYTES:
        raise BatchError(Reason.OVERSIZED, f"{len(value)} bytes, a label has at most {MAX_LABEL_BYTES}")
    try:
        message = _Label.FromString(unframed(value))
    except DecodeError as error:
        raise BatchError(Reason.NOT_PROTOBUF, f"{len(value)} bytes: {error}") from error
    if not (message.device_id and message.said_by):
        raise BatchError(Reason.MISSING_ID, f"{'said_by' if message.device_id else 'device_id'} is empty")
    for text in (message.device_id, message.session_id, message.scene, message.said_by):
        if len(text) > MAX_TEXT or not text.isprintable():
            raise BatchError(
                Reason.BAD_LABEL, f"{text[:MAX_TEXT]!r} is not printable or longer than {MAX_TEXT} characters"
            )
    _check_times(message, latest_ns=received_ns + max_ahead_ns)
    return SceneLabel(
        device_id=message.device_id,
        session_id=message.session_id or None,
        start_ns=message.start_ns,
        end_ns=message.end_ns,
        scene=message.scene or None,
        said_by=message.said_by,
        said_ns=message.said_ns,
    )


def _check_times(message: _Label, *, latest_ns: int) -> None:
    times = {"start_ns": message.start_ns, "end_ns": message.end_ns, "said_ns": message.said_ns}
    for name, time_ns in times.items():
        if time_ns < 0:
            raise BatchError(Reason.BEFORE_EPOCH, f"{name} is {-time_ns} ns before 1970")
        if time_ns > latest_ns:
            raise BatchError(
                Reason.FAR_FUTURE,
                f"{name} is {time_ns - latest_ns} ns beyond what is believed; [windows] max_ahead sets it",
            )
    if not message.said_ns:
        raise BatchError(Reason.BAD_TIME, "said_ns is not set")
    if message.end_ns <= message.start_ns:
        raise BatchError(Reason.BAD_INTERVAL, f"it ends at {message.end_ns}, not after its start at {message.start_ns}")
