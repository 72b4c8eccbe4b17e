from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming import sensor_batch_pb2 as pb
from streaming.errors import BatchError
from streaming.sensors import SENSORS
from streaming.settings import IngestSettings, WindowSettings
from streaming.wire import HEADERS, MAX_BLOCKS, MAX_SPAN_NS, MAX_TEXT, Reason, SensorBatch, SensorBlock, decode, encode

NOW = 1_700_000_000_000_000_000
LIMITS = {"max_bytes": 1 << 20, "max_samples": 10_000, "max_ahead_ns": 10**9, "received_ns": NOW}

texts = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=MAX_TEXT)


@st.composite
def sensor_blocks(draw: st.DrawFn, base: int) -> SensorBlock:
    sensor = SENSORS[draw(st.sampled_from(sorted(SENSORS)))]
    size = draw(st.integers(1, 20))
    floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
    values = draw(st.lists(floats, min_size=size * len(sensor.axes), max_size=size * len(sensor.axes)))
    regular = draw(st.booleans())
    offsets = sorted(draw(st.lists(st.integers(0, 2**32 - 1), min_size=size, max_size=size)))
    return SensorBlock(
        sensor=sensor.name,
        axes=sensor.axes,
        values=np.array(values, np.float32).reshape(size, -1),
        start_ns=base + draw(st.integers(0, 10**12)),
        period_ns=draw(st.integers(1, 10**9)) if regular else None,
        offsets_us=None if regular else np.array(offsets, np.uint32),
    )


@st.composite
def sensor_batches(draw: st.DrawFn) -> SensorBatch:
    base = draw(st.integers(0, NOW - 10**12 - 2**32 * 1000))
    blocks = tuple(draw(st.lists(sensor_blocks(base), max_size=4)))
    return SensorBatch(
        device_id=draw(texts), session_id=draw(texts), sequence=draw(st.integers(0, 2**63 - 2)), subject_id=draw(texts),
        phone_model=draw(texts), position=draw(texts), cohort=draw(texts), scene=draw(st.none() | texts),
        end_of_session=not blocks or draw(st.booleans()), blocks=blocks,
    )  # fmt: skip


def assert_same(one: SensorBatch, other: SensorBatch) -> None:
    for name in SensorBatch.__slots__:
        if name != "blocks":
            assert getattr(one, name) == getattr(other, name)
    assert len(one.blocks) == len(other.blocks)
    for a, b in zip(one.blocks, other.blocks, strict=True):
        assert (a.sensor, a.axes, a.start_ns, a.period_ns) == (b.sensor, b.axes, b.start_ns, b.period_ns)
        np.testing.assert_array_equal(a.times_ns(), b.times_ns())
        np.testing.assert_array_equal(a.values, b.values)


def block(**change: object) -> pb.SensorBlock:
    fields = {
        "sensor": "accelerometer", "start_ns": NOW - 10**9, "period_ns": 10_000_000, "axes": ["x", "y", "z"],
        "values": np.arange(30, dtype="<f4").tobytes(),
    } | change  # fmt: skip
    return pb.SensorBlock(**{name: value for name, value in fields.items() if value is not None})


def message(*blocks: pb.SensorBlock, **change: object) -> bytes:
    fields = {
        "device_id": "d", "session_id": "s", "sequence": 3, "subject_id": "p", "phone_model": "m", "position": "hips",
        "cohort": "source", "scene": "Walk", "blocks": blocks or (block(),),
    } | change  # fmt: skip
    return pb.SensorBatch(**fields).SerializeToString()


@given(sensor_batches())
def test_what_is_encoded_is_decoded(batch: SensorBatch) -> None:
    assert_same(decode(encode(batch), **LIMITS), batch)


@given(sensor_batches(), st.binary(min_size=4, max_size=4), st.sampled_from([b"\0", b"\2\0"]))
def test_confluent_framing_is_accepted(batch: SensorBatch, schema_id: bytes, indexes: bytes) -> None:
    assert_same(decode(b"\0" + schema_id + indexes + encode(batch), **LIMITS), batch)


def valid_or_refused(value: bytes) -> None:
    try:
        batch = decode(value, **LIMITS)
    except BatchError as error:
        Reason(error.reason)
        return
    assert batch.device_id
    assert batch.blocks or batch.end_of_session
    for decoded in batch.blocks:
        times = decoded.times_ns()
        assert decoded.values.shape == (len(times), len(SENSORS[decoded.sensor].axes))
        assert np.isfinite(decoded.values).all()
        assert (np.diff(times) >= 0).all()
        assert times[0] >= 0
        assert times[-1] <= NOW + 10**9


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_batch_or_refused(value: bytes) -> None:
    valid_or_refused(value)
    valid_or_refused(b"\0" + value)


@settings(max_examples=300)
@given(sensor_batches(), st.data())
def test_a_damaged_batch_is_a_batch_or_refused(batch: SensorBatch, data: st.DataObject) -> None:
    value = bytearray(encode(batch))
    for _ in range(data.draw(st.integers(1, 4))):
        value[data.draw(st.integers(0, len(value) - 1))] = data.draw(st.integers(0, 255))
    valid_or_refused(bytes(value))
    valid_or_refused(bytes(value[: data.draw(st.integers(0, len(value)))]))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, Reason.EMPTY),
        (b"", Reason.EMPTY),
        (b"x" * ((1 << 20) + 1), Reason.OVERSIZED),
        (b'{"device_id": "d"}', Reason.NOT_PROTOBUF),
        (message()[:-3], Reason.NOT_PROTOBUF),
        (b"\0\0\0\0\1", Reason.NOT_PROTOBUF),
        (b"\0\0\0\0\1" + b"\xff" * 9, Reason.NOT_PROTOBUF),
        (b"\0\0\0\0\1\2\2" + message(), Reason.UNKNOWN_TYPE),
        (message(device_id=""), Reason.MISSING_ID),
        (message(session_id=""), Reason.MISSING_ID),
        (message(subject_id=""), Reason.MISSING_ID),
        (message(scene="x" * 65), Reason.BAD_LABEL),
        (message(position="hips\n"), Reason.BAD_LABEL),
        (message(sequence=2**63), Reason.BAD_SEQUENCE),
        (message(sequence=2**63 - 1), Reason.BAD_SEQUENCE),
        (message(blocks=[]), Reason.EMPTY),
        (message(block(values=b"", period_ns=None)), Reason.EMPTY),
        (message(*[block()] * (MAX_BLOCKS + 1)), Reason.OVERSIZED),
        (message(block(values=bytes(12 * 10_001))), Reason.OVERSIZED),
        (message(block(sensor="thermometer")), Reason.UNKNOWN_SENSOR),
        (message(block(axes=["x", "y"])), Reason.UNKNOWN_AXES),
        (message(block(axes=["x", "y", "w"])), Reason.UNKNOWN_AXES),
        (message(block(axes=["x", "y", "z", "x"])), Reason.UNKNOWN_AXES),
        (message(block(axes=[])), Reason.UNKNOWN_AXES),
        (message(block(values=bytes(31))), Reason.WRONG_LENGTH),
        (message(block(values=bytes(16))), Reason.WRONG_LENGTH),
        (message(block(period_ns=None, offsets_us=[0, 1])), Reason.WRONG_LENGTH),
        (message(block(values=b"", period_ns=None, offsets_us=[0, 1])), Reason.WRONG_LENGTH),
        (message(block(period_ns=None)), Reason.BAD_TIME),
        (message(block(period_ns=0)), Reason.BAD_TIME),
        (message(block(offsets_us=range(10))), Reason.BAD_TIME),
        (message(block(period_ns=None, offsets_us=[*range(9), 3])), Reason.UNSORTED_TIME),
        (message(block(start_ns=-1)), Reason.BEFORE_EPOCH),
        (message(block(start_ns=NOW - MAX_SPAN_NS, period_ns=MAX_SPAN_NS // 9 + 1)), Reason.OVERSIZED),
        (message(block(), block(start_ns=NOW - MAX_SPAN_NS - 10**9)), Reason.OVERSIZED),
        (message(block(start_ns=NOW + 10**9 + 1)), Reason.FAR_FUTURE),
        (message(block(period_ns=2**64 - 1)), Reason.BAD_TIME),
        (message(block(values=bytes(12), period_ns=MAX_SPAN_NS + 1)), Reason.BAD_TIME),
        (message(block(period_ns=None, offsets_us=[0] * 9 + [2**32 - 1])), Reason.FAR_FUTURE),
        (message(block(start_ns=2**63 - 1)), Reason.FAR_FUTURE),
        (message(block(values=np.array([0.0] * 29 + [np.nan], "<f4").tobytes())), Reason.NOT_FINITE),
        (message(block(values=np.array([0.0] * 29 + [-np.inf], "<f4").tobytes())), Reason.NOT_FINITE),
    ],
)  # fmt: skip
def test_a_bad_batch_is_refused_for_its_reason(value: bytes | None, reason: Reason) -> None:
    with pytest.raises(BatchError) as refused:
        decode(value, **LIMITS)
    assert refused.value.reason == reason
    assert str(refused.value).startswith(f"{reason}: ")


def test_a_refusal_names_the_setting_as_it_is_called() -> None:
    for value, setting in (
        (message(block(start_ns=NOW + 2 * 10**9)), ("windows", "max_ahead")),
        (message(block(values=bytes(12 * 10_001))), ("ingest", "max_batch_samples")),
        (b"x" * ((1 << 20) + 1), ("ingest", "max_batch_bytes")),
    ):
        section, name = setting
        with pytest.raises(BatchError, match=rf"\[{section}\] {name}"):
            decode(value, **LIMITS)
        owner = {"windows": WindowSettings, "ingest": IngestSettings}[section]
        assert hasattr(owner(), name)


def test_the_newest_time_that_is_believed() -> None:
    latest = NOW + 10**9
    batch = decode(message(block(start_ns=latest - 90_000_000)), **LIMITS)
    assert batch.blocks[0].times_ns()[-1] == latest


def test_a_claimed_size_allocates_nothing() -> None:
    huge = {"max_bytes": 1 << 20, "max_samples": 2**40, "max_ahead_ns": 2**62, "received_ns": NOW}
    # A length-delimited field 6 ("values") that says it has 4 GB, in a block that says the same.
    claim = b"\xff\xff\xff\xff\x0f"
    liar = b"\x0a\x01d\x12\x01s\x22\x01p\x52" + claim + b"\x0a\x0daccelerometer\x32" + claim
    tracemalloc.start()
    try:
        with pytest.raises(BatchError):
            decode(liar, **huge)
        with pytest.raises(BatchError, match="bad_time"):
            decode(message(block(values=bytes(12), period_ns=2**63)), **huge)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000


def test_axes_come_in_the_catalogues_order() -> None:
    batch = decode(message(block(axes=["z", "x", "y"])), **LIMITS)
    assert batch.blocks[0].axes == ("x", "y", "z")
    np.testing.assert_array_equal(batch.blocks[0].values[0], [1, 2, 0])


def test_values_are_a_view_of_what_was_received() -> None:
    values = decode(message(), **LIMITS).blocks[0].values
    assert not values.flags.owndata
    assert not values.flags.writeable


def test_a_block_without_samples_is_left_out() -> None:
    batch = decode(message(block(), block(values=b"", period_ns=None), scene=""), **LIMITS)
    assert (len(batch.blocks), batch.samples, batch.scene) == (1, 10, None)


def test_an_end_needs_no_samples() -> None:
    assert decode(message(blocks=[], end_of_session=True), **LIMITS).end_of_session


def test_the_header_names_the_message() -> None:
    assert dict(HEADERS) == {"content-type": b'application/x-protobuf; messageType="sensorloop.v1.SensorBatch"'}
    assert pb.SensorBatch.DESCRIPTOR.full_name in HEADERS[0][1].decode()
