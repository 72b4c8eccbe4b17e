"""A batch as bytes and back: Protobuf ``sensorloop.v1.SensorBatch``, plain or in Confluent's wire framing.

Whatever the bytes are, :func:`decode` returns a batch that can be relied upon or raises :class:`BatchError` with a
:class:`Reason`. Nothing is allocated from a number that the batch merely claims: sizes are those of the bytes received.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from streaming.errors import BatchError
from streaming.sensor_batch_pb2 import SensorBatch as _Batch
from streaming.sensor_batch_pb2 import SensorBlock as _Block
from streaming.sensors import SENSORS

CONTENT_TYPE = 'application/x-protobuf; messageType="sensorloop.v1.SensorBatch"'
"""Names the format in the Kafka record's headers."""
HEADERS: tuple[tuple[str, bytes], ...] = (("content-type", CONTENT_TYPE.encode()),)
"""Headers of every record that carries a batch."""
MAX_TEXT = 64
"""Longest id or label, in characters: room for a UUID with a prefix, and none for a payload."""
MAX_BLOCKS = 256
"""Most blocks of a batch: a few per sensor, when drop-outs cut a second into pieces."""

MAX_SPAN_NS = 2 * 3_600 * 1_000_000_000
"""Longest time from the first to the last sample of a batch, ns. Each window on the way takes its memory however few samples it has, so
that a few bytes could ask for gigabytes; and ``offsets_us`` can say 71 minutes."""


class Reason(StrEnum):
    """Why a batch or a label is refused: the stable word for counters and dead letters."""

    OVERSIZED = "oversized"
    """More bytes, samples, blocks or hours than allowed."""
    NOT_PROTOBUF = "not_protobuf"
    """Not Protobuf, or a truncated framing."""
    UNKNOWN_TYPE = "unknown_type"
    """Confluent's framing names another message type."""
    MISSING_ID = "missing_id"
    """device_id, session_id or subject_id is empty."""
    BAD_LABEL = "bad_label"
    """An id or label is too long or not printable."""
    BAD_SEQUENCE = "bad_sequence"
    """A sequence after which none fits into int64."""
    EMPTY = "empty"
    """No samples, and not the end of the session either."""
    UNKNOWN_SENSOR = "unknown_sensor"
    """Not in the sensor catalogue."""
    UNKNOWN_AXES = "unknown_axes"
    """Not the axes of this sensor."""
    WRONG_LENGTH = "wrong_length"
    """The values are not whole samples, or not as many as there are times."""
    BAD_TIME = "bad_time"
    """Not exactly one of period_ns and offsets_us, or a period of 0 or longer than a batch may be."""
    UNSORTED_TIME = "unsorted_time"
    """offsets_us decreases."""
    BEFORE_EPOCH = "before_epoch"
    """Time before 1970."""
    FAR_FUTURE = "far_future"
    """Time too far after the Kafka record's own."""
    NOT_FINITE = "not_finite"
    """NaN or infinity among the values."""
    BAD_INTERVAL = "bad_interval"
    """A label that ends where it starts, or before."""


_INT64_MAX = 2**63 - 1
_LAST_SEQUENCE = _INT64_MAX - 1
"""The one after it is stored too: in the table, and of each session that has closed."""
_CONFLUENT_MAGIC = 0
_FLOAT = np.dtype("<f4")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SensorBlock:
    """What one sensor measured, in equal steps (``period_ns``) or not (``offsets_us``)."""

    sensor: str
    """A name of the sensor catalogue."""
    axes: tuple[str, ...]
    """The sensor's axes, in the order of the columns of ``values``."""
    values: NDArray[np.float32]
    """(n, axes) in the sensor's unit. After decoding it is a read-only view of the bytes received."""
    start_ns: int
    """Event time of the first sample, ns since the epoch."""
    period_ns: int | None = None
    """Time from one sample to the next; None if ``offsets_us`` says it."""
    offsets_us: NDArray[np.uint32] | None = None
    """(n,) time of each sample after ``start_ns``; None if ``period_ns`` says it."""

    def times_ns(self) -> NDArray[np.int64]:
        """Event time of each sample, (n,) ns since the epoch, never decreasing."""
        if self.offsets_us is not None:
            return self.offsets_us.astype(np.int64) * 1_000 + self.start_ns
        return np.arange(len(self.values), dtype=np.int64) * (self.period_ns or 0) + self.start_ns


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SensorBatch:
    """One Kafka message: what one phone measured in a second or so."""

    device_id: str
    """The phone; the Kafka key."""
    session_id: str
    """Names the session among those of its device."""
    sequence: int
    """Counts up by one within a session; (device, session, sequence) names the batch."""
    subject_id: str
    """Who carries the phone."""
    phone_model: str = ""
    """What kind of phone; free text."""
    position: str = ""
    """Where it is carried."""
    cohort: str = ""
    """Which fleet or campaign it belongs to."""
    scene: str | None = None
    """What its owner says to be doing; None if nothing is said."""
    end_of_session: bool = False
    """No sequence comes after this one."""
    blocks: tuple[SensorBlock, ...] = ()
    """Measurements; several blocks may be of one sensor."""

    @property
    def samples(self) -> int:
        """Samples of all blocks together."""
        return sum(len(block.values) for block in self.blocks)


def encode(batch: SensorBatch) -> bytes:
    """The batch as plain Protobuf, the value of its Kafka record; the key is ``batch.device_id``."""
    message = _Batch(
        device_id=batch.device_id,
        session_id=batch.session_id,
        sequence=batch.sequence,
        subject_id=batch.subject_id,
        phone_model=batch.phone_model,
        position=batch.position,
        cohort=batch.cohort,
        scene=batch.scene,
        end_of_session=batch.end_of_session,
        blocks=[
            _Block(
                sensor=block.sensor,
                start_ns=block.start_ns,
                period_ns=block.period_ns,
                offsets_us=None if block.offsets_us is None else block.offsets_us.tolist(),
                axes=block.axes,
                values=np.ascontiguousarray(block.values, dtype=_FLOAT).tobytes(),
            )
            for block in batch.blocks
        ],
    )
    return message.SerializeToString()


def decode(
    value: bytes | None, *, max_bytes: int, max_samples: int, max_ahead_ns: int, received_ns: int
) -> SensorBatch:
    """Read and check the value of a Kafka record.

    Axes come back in the catalogue's order, whatever their order was; blocks without samples are left out.

    Args:
        value: plain Protobuf or Confluent's framing; None is what Kafka calls a tombstone.
        max_bytes: a longer value is refused before it is parsed.
        max_samples: most samples of a block.
        max_ahead_ns: how far a sample may be after ``received_ns``.
        received_ns: the Kafka record's own timestamp, ns since the epoch.

    Raises:
        BatchError: its ``reason`` is a :class:`Reason`.
    """
    if not value:
        raise BatchError(Reason.EMPTY, "the record has no value")
    if len(value) > max_bytes:
        raise BatchError(Reason.OVERSIZED, f"{len(value)} bytes, [ingest] max_batch_bytes is {max_bytes}")
    try:
        message = _Batch.FromString(unframed(value))
    except DecodeError as error:
        raise BatchError(Reason.NOT_PROTOBUF, f"{len(value)} bytes: {error}") from error
    device_id, session_id, subject_id = message.device_id, message.session_id, message.subject_id
    if not (device_id and session_id and subject_id):
        name = "session_id" if not session_id else "subject_id"
        raise BatchError(Reason.MISSING_ID, f"{name if device_id else 'device_id'} is empty")
    phone_model, position, cohort, scene = message.phone_model, message.position, message.cohort, message.scene
    for text in (device_id, session_id, subject_id, phone_model, position, cohort, scene):
        if len(text) > MAX_TEXT or not text.isprintable():
            raise BatchError(
                Reason.BAD_LABEL, f"{text[:MAX_TEXT]!r} is not printable or longer than {MAX_TEXT} characters"
            )
    if message.sequence > _LAST_SEQUENCE:
        raise BatchError(Reason.BAD_SEQUENCE, f"{message.sequence} is beyond {_LAST_SEQUENCE}")
    if len(message.blocks) > MAX_BLOCKS:
        raise BatchError(Reason.OVERSIZED, f"{len(message.blocks)} blocks, at most {MAX_BLOCKS} are allowed")
    latest_ns = min(received_ns + max_ahead_ns, _INT64_MAX)
    blocks = []
    for block in message.blocks:
        data = block.values  # each look at it is a copy
        if data or block.offsets_us:
            blocks.append(_block(block, data, max_samples=max_samples, latest_ns=latest_ns))
    _check_span(blocks)
    if not blocks and not message.end_of_session:
        raise BatchError(Reason.EMPTY, "no samples, and end_of_session is not set")
    return SensorBatch(
        device_id=device_id,
        session_id=session_id,
        sequence=message.sequence,
        subject_id=subject_id,
        phone_model=phone_model,
        position=position,
        cohort=cohort,
        scene=scene or None,
        end_of_session=message.end_of_session,
        blocks=tuple(blocks),
    )


def _check_span(blocks: list[SensorBlock]) -> None:
    if blocks:
        span_ns = max(map(_last_ns, blocks)) - min([block.start_ns for block in blocks])
        if span_ns > MAX_SPAN_NS:
            raise BatchError(
                Reason.OVERSIZED, f"samples {span_ns} ns apart, at most {MAX_SPAN_NS} are allowed in a batch"
            )


def _last_ns(block: SensorBlock) -> int:
    if block.offsets_us is not None:
        return block.start_ns + int(block.offsets_us[-1]) * 1_000
    return block.start_ns + (len(block.values) - 1) * (block.period_ns or 0)


def _block(block: _Block, data: bytes, *, max_samples: int, latest_ns: int) -> SensorBlock:
    name = block.sensor
    sensor = SENSORS.get(name)
    if sensor is None:
        raise BatchError(Reason.UNKNOWN_SENSOR, f"'{name[:MAX_TEXT]}'; known: {', '.join(SENSORS)}")
    axes = tuple(block.axes[: len(sensor.axes) + 1])
    if axes != sensor.axes and sorted(axes) != sorted(sensor.axes):
        raise BatchError(Reason.UNKNOWN_AXES, f"{name} has axes {sensor.axes}, not {[axis[:8] for axis in axes]}")
    samples, rest = divmod(len(data), _FLOAT.itemsize * len(axes))
    if rest:
        raise BatchError(
            Reason.WRONG_LENGTH, f"{len(data)} bytes of {name} are no whole samples of {len(axes)} float32"
        )
    if samples > max_samples:
        raise BatchError(Reason.OVERSIZED, f"{samples} samples of {name}, [ingest] max_batch_samples is {max_samples}")
    period_ns, offsets_us = _times(block, name, samples, latest_ns)
    values: NDArray[np.float32] = np.ndarray((samples, len(axes)), _FLOAT, data)  # one object and no copy
    if not np.isfinite(values).all():
        raise BatchError(Reason.NOT_FINITE, f"value {int(np.argmin(np.isfinite(values)))} of {name}")
    if axes != sensor.axes:
        values = values[:, [axes.index(axis) for axis in sensor.axes]]
    return SensorBlock(
        sensor=name,
        axes=sensor.axes,
        values=values,
        start_ns=block.start_ns,
        period_ns=period_ns,
        offsets_us=offsets_us,
    )


def _times(block: _Block, name: str, samples: int, latest_ns: int) -> tuple[int | None, NDArray[np.uint32] | None]:
    """Checked in Python's unbounded integers, so that no claimed time can overflow."""
    start_ns = block.start_ns
    if start_ns < 0:
        raise BatchError(Reason.BEFORE_EPOCH, f"{name} starts {-start_ns} ns before 1970")
    period_ns = block.period_ns if block.HasField("period_ns") else None
    times = len(block.offsets_us)
    if (period_ns is None) == (times == 0) or period_ns == 0:
        raise BatchError(
            Reason.BAD_TIME, f"{name} has period_ns {period_ns} and {times} offsets_us: one of them is needed"
        )
    if period_ns is not None:
        if (
            period_ns > MAX_SPAN_NS
        ):  # also of a lone sample, which it does not move: later it is calculated with in int64
            raise BatchError(Reason.BAD_TIME, f"{name} has period_ns {period_ns}, at most {MAX_SPAN_NS} is allowed")
        offsets_us = None
        last_ns = start_ns + period_ns * (samples - 1)
    else:
        if times != samples:
            raise BatchError(Reason.WRONG_LENGTH, f"{name} has {samples} samples and {times} offsets_us")
        offsets_us = np.fromiter(block.offsets_us[:], dtype=np.uint32, count=times)
        if (back := offsets_us[1:] < offsets_us[:-1]).any():
            raise BatchError(
                Reason.UNSORTED_TIME, f"offsets_us of {name} decreases at sample {int(np.argmax(back)) + 1}"
            )
        last_ns = start_ns + int(offsets_us[-1]) * 1_000
    if last_ns > latest_ns:
        raise BatchError(
            Reason.FAR_FUTURE,
            f"{name} ends {last_ns - latest_ns} ns beyond what is believed; [windows] max_ahead sets it",
        )
    return period_ns, offsets_us


def unframed(value: bytes) -> bytes:
    """Without Confluent's magic byte 0, schema id (4 bytes) and message indexes (zigzag varints, first their number), if it has them.

    No plain Protobuf message starts with a 0: that would be field number 0, which does not exist. ``SensorBatch`` and
    ``SceneLabel`` are the first messages of their files, so their path is [0], for which a lone 0 is the short form.

    Raises:
        BatchError: the framing is cut short, or names another message.
    """
    if value[0] != _CONFLUENT_MAGIC:
        return value
    position = 5
    count, position = _varint(value, position)
    if count == 0:
        return value[position:]
    index, position = _varint(value, position)
    if (count, index) != (2, 0):
        raise BatchError(
            Reason.UNKNOWN_TYPE, "the message indexes of the framing do not name the first message of its file"
        )
    return value[position:]


def _varint(value: bytes, position: int) -> tuple[int, int]:
    """One varint (as it stands, not un-zigzagged) and the position after it."""
    number = 0
    for shift in range(0, 35, 7):
        if position + shift // 7 >= len(value):
            raise BatchError(Reason.NOT_PROTOBUF, f"{len(value)} bytes end within Confluent's framing")
        byte = value[position + shift // 7]
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position + shift // 7 + 1
    raise BatchError(Reason.NOT_PROTOBUF, "a message index of Confluent's framing is too long")
