"""Batches that are damaged or made up to do harm, by seed; and what must hold of each, for the tests and ``make bench-poison``."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import numpy as np

from streaming import sensor_batch_pb2 as pb
from streaming.assembler import Assembler
from streaming.errors import BatchError
from streaming.rows import windows_table
from streaming.sensors import SENSORS
from streaming.settings import IngestSettings, WindowSettings
from streaming.wire import Reason, SensorBatch, decode, encode

from .sessions import close_all_idle
from .traffic import fleet_traffic, gappy_session

_INGEST, _WINDOWS = IngestSettings(), WindowSettings()
_RECEIVED_NS = 1_750_000_000 * 1_000_000_000
_NOW = datetime(2026, 1, 1, tzinfo=UTC)
_HUGE = (b"\xff\xff\xff\xff\x0f", b"\x80\x94\xeb\xdc\x03", b"\xff" * 9 + b"\x01", b"\xff" * 12)
"""Varints: 4 GiB, a billion, 2⁶⁴ - 1, and one that is too long."""
_EXTREMES = (
    0,
    1,
    -1,
    2**31,
    2**32 - 1,
    2**53,
    2**63 - 1,
    -(2**63),
    2**64 - 1,
    _RECEIVED_NS,
    _RECEIVED_NS + 86_400 * 10**9,
)

Mutation = Callable[[random.Random, Sequence[bytes]], bytes]


def valid_batches() -> list[bytes]:
    """Batches of all manners, whole."""
    rng = random.Random(1)
    found = [encode(batch) for at, batch in enumerate(fleet_traffic(timedelta(milliseconds=900))) if at % 13 == 0]
    return found[:150] + [encode(batch) for batch in gappy_session(rng, "gappy", 400, _WINDOWS)]


def bits(rng: random.Random, pool: Sequence[bytes]) -> bytes:
    """A few bits flipped."""
    value = bytearray(rng.choice(pool))
    for _ in range(rng.randint(1, 8)):
        value[rng.randrange(len(value))] ^= 1 << rng.randrange(8)
    return bytes(value)


def early_bits(rng: random.Random, pool: Sequence[bytes]) -> bytes:
    """The same near its beginning and its end, where the fields are and not the samples."""
    value = bytearray(rng.choice(pool))
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(min(80, len(value)))
        value[at if rng.random() < 0.7 else -1 - at] = rng.randrange(256)
    return bytes(value)


def truncated(rng: random.Random, pool: Sequence[bytes]) -> bytes:
    """Cut short at either end."""
    value = rng.choice(pool)
    at = rng.randrange(len(value))
    return value[:at] if rng.random() < 0.8 else value[at:]


def spliced(rng: random.Random, pool: Sequence[bytes]) -> bytes:
    """The beginning of one and the end of another."""
    one, other = rng.choice(pool), rng.choice(pool)
    return one[: rng.randrange(len(one))] + other[rng.randrange(len(other)) :]


def shuffled(rng: random.Random, pool: Sequence[bytes]) -> bytes:
    """A stretch left out, doubled or moved."""
    value = rng.choice(pool)
    a, b = sorted(rng.randrange(len(value)) for _ in range(2))
    return rng.choice([value[:a] + value[b:], value[:b] + value[a:], value[a:b] + value[:a] + value[b:]])


def inflated(rng: random.Random, pool: Sequence[bytes]) -> bytes:
    """A number somewhere, perhaps a length, says that it is huge."""
    value, claim = rng.choice(pool), rng.choice(_HUGE)
    at = rng.randrange(min(120, len(value))) if rng.random() < 0.7 else rng.randrange(len(value))
    return value[:at] + claim + value[at + rng.choice([0, 1, 1, len(claim)]) :]


def claiming(rng: random.Random, _: Sequence[bytes]) -> bytes:
    """A few bytes that claim billions of samples or times."""
    claim = rng.choice(_HUGE)
    field = rng.choice([b"\x32", b"\x22", b"\x2a", b"\x1a", b"\x0a"])
    inner = b"\x0a\x0daccelerometer\x11" + bytes(8) + field + claim + rng.randbytes(rng.randrange(8))
    outer = rng.choice([claim, bytes([len(inner)]), bytes([rng.randrange(128)])])
    return b"\x0a\x01d\x12\x01s\x22\x01p" + rng.choice([b"\x52", b"\x4a", b"\x5a"]) + outer + inner


def sparse(rng: random.Random, _: Sequence[bytes]) -> bytes:
    """A sample now and then for as long as it can be: each window on the way would take its memory."""
    message = pb.SensorBatch(device_id="d", session_id=f"s{rng.randrange(9)}", subject_id="p", end_of_session=True)
    samples, hop_s = rng.choice([1, 2, 30, 500]), rng.choice([1, 2, 5, 60, 3_600, 86_400])
    extreme = rng.choice([n for n in _EXTREMES if n > 0])  # a lone sample's period says nothing about its time
    message.blocks.add(
        sensor="pressure", axes=SENSORS["pressure"].axes, start_ns=_RECEIVED_NS // 2,
        period_ns=extreme if samples == 1 else hop_s * 10**9, values=bytes(4 * samples),
    )  # fmt: skip
    return bytes(message.SerializeToString())


def noise(rng: random.Random, _: Sequence[bytes]) -> bytes:
    """Anything."""
    return rng.randbytes(rng.randrange(300))


def framed(rng: random.Random, pool: Sequence[bytes]) -> bytes:
    """Confluent's framing, right or wrong, around a batch that is whole or not."""
    indexes = rng.choice([b"\0", b"\2\0", b"\2\2", b"\4\0\0", b"", b"\xff", rng.choice(_HUGE), rng.randbytes(3)])
    body = rng.choice(pool) if rng.random() < 0.6 else bits(rng, pool)
    return (b"\0" + rng.randbytes(4) + indexes + body)[: rng.choice([3, 5, 6, 7, 10**6, 10**6, 10**6])]


def misleading(rng: random.Random, pool: Sequence[bytes]) -> bytes:
    """Whole Protobuf of which a field is as no phone would fill it."""
    message = pb.SensorBatch.FromString(rng.choice(pool))
    blocks = message.blocks
    for _ in range(rng.randint(1, 2)):
        block = rng.choice(blocks) if blocks else message.blocks.add(sensor="pressure", axes=["x"])
        rng.choice(_FIELDS)(rng, message, block)
    return bytes(message.SerializeToString())


def _number(name: str, low: int, high: int) -> Callable[[random.Random, pb.SensorBatch, pb.SensorBlock], None]:
    def change(rng: random.Random, message: pb.SensorBatch, block: pb.SensorBlock) -> None:
        target = message if name == "sequence" else block
        setattr(target, name, min(max(rng.choice(_EXTREMES), low), high))

    return change


def _text(rng: random.Random, message: pb.SensorBatch, _: pb.SensorBlock) -> None:
    name = rng.choice(["device_id", "session_id", "subject_id", "scene", "cohort", "position", "phone_model"])
    setattr(message, name, rng.choice(["", "x" * 64, "x" * 65, "a\0b", "\n", "é" * 40, "\u202e", "😀" * 30]))


def _values(rng: random.Random, _: pb.SensorBatch, block: pb.SensorBlock) -> None:
    values = np.frombuffer(block.values[: len(block.values) // 4 * 4], "<f4").copy()
    if len(values):
        values[rng.randrange(len(values))] = rng.choice([np.nan, np.inf, -np.inf, 3.4e38, -3.4e38, 1e-45, -0.0])
    block.values = values.tobytes() + rng.choice([b"", b"", b"\0", bytes(4)])


def _times(rng: random.Random, _: pb.SensorBatch, block: pb.SensorBlock) -> None:
    size = len(block.values) // 4 // max(1, len(block.axes))
    block.ClearField("period_ns")
    del block.offsets_us[:]
    step = rng.choice([0, 1, 40_000, 10**6, 2**32 // max(1, size) - 1])
    block.offsets_us.extend(step * at for at in range(size + rng.choice([0, 0, 0, 1, -1])))
    if size > 2 and rng.random() < 0.3:
        block.offsets_us[rng.randrange(size - 1)] = rng.choice([0, 2**32 - 1])


def _axes(rng: random.Random, _: pb.SensorBatch, block: pb.SensorBlock) -> None:
    axes = list(block.axes)
    rng.shuffle(axes)
    del block.axes[:]
    block.axes.extend(rng.choice([axes, axes[1:], [*axes, "x"], [], ["x"] * 3]))
    if rng.random() < 0.3:
        block.sensor = rng.choice([*SENSORS, "", "thermometer", "x" * 500])


def _many(rng: random.Random, message: pb.SensorBatch, block: pb.SensorBlock) -> None:
    copies = [block] * rng.choice([1, 2, 5, 255, 300])
    message.blocks.extend(copies)
    message.end_of_session = rng.random() < 0.5


_FIELDS = (
    _number("sequence", 0, 2**64 - 1), _number("start_ns", -(2**63), 2**63 - 1), _number("period_ns", 0, 2**64 - 1), _text, _values,
    _times, _axes, _many,
)  # fmt: skip
MUTATIONS: tuple[Mutation, ...] = (
    bits, early_bits, truncated, spliced, shuffled, inflated, claiming, sparse, noise, framed, *[misleading] * 6,
)  # fmt: skip


class Examiner:
    """Takes batches as ingestion does; whatever is neither a batch nor a refusal with a reason is let through as the exception it is."""

    def __init__(self, outcomes: Counter[str] | None = None) -> None:
        self.outcomes: Counter[str] = Counter() if outcomes is None else outcomes
        self._begin()

    def _begin(self) -> None:
        self._assembler = Assembler(_WINDOWS, {}, together=64)
        self._offset = 0

    def examine(self, value: bytes) -> None:
        """Decode, check, and cut windows."""
        try:
            batch = decode(
                value, max_bytes=_INGEST.max_batch_bytes, max_samples=_INGEST.max_batch_samples,
                max_ahead_ns=int(_WINDOWS.max_ahead.total_seconds() * 1e9), received_ns=_RECEIVED_NS,
            )  # fmt: skip
        except BatchError as error:
            self.outcomes[Reason(error.reason)] += 1
            return
        self.outcomes["batch"] += 1
        _believable(batch)
        closed = self._assembler.add(batch, self._offset, _NOW)
        self._offset += 1
        if closed:
            self._rows(closed)
        if self._offset % 200 == 0:
            self.finish()

    def finish(self) -> None:
        """Close what is open, and begin anew."""
        self._assembler.needed_offset()
        self._rows(close_all_idle(self._assembler, _NOW + _WINDOWS.idle_timeout))
        self._begin()

    def _rows(self, closed: Sequence[object]) -> None:
        rows = windows_table(closed, _WINDOWS, topic="t", partition=0, ingested_at=_NOW)  # type: ignore[arg-type]
        self.outcomes["windows"] += rows.num_rows


def _believable(batch: SensorBatch) -> None:
    assert batch.device_id
    assert batch.blocks or batch.end_of_session
    for block in batch.blocks:
        times = block.times_ns()
        assert block.values.shape == (len(times), len(SENSORS[block.sensor].axes))
        assert np.isfinite(block.values).all()
        assert (np.diff(times) >= 0).all()
        assert 0 <= times[0] <= times[-1] <= _RECEIVED_NS + _WINDOWS.max_ahead.total_seconds() * 1e9


def mutated(seed: int, pool: Sequence[bytes]) -> bytes:
    """One damaged batch; the same seed gives the same."""
    rng = random.Random(seed)
    value = rng.choice(MUTATIONS)(rng, pool)
    if value and rng.random() < 0.1 and _is_protobuf(value):
        return rng.choice(MUTATIONS)(rng, [value])
    return value


def _is_protobuf(value: bytes) -> bool:
    """Whether every mutation can be done to it: some need Protobuf."""
    try:
        pb.SensorBatch.FromString(value)
    except Exception:  # noqa: BLE001  # protobuf's own
        return False
    return True
