from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming import scene_label_pb2 as pb
from streaming.errors import BatchError
from streaming.label_wire import LABEL_HEADERS, MAX_LABEL_BYTES, SceneLabel, decode_label, encode_label
from streaming.wire import MAX_TEXT, Reason
from tests.streaming.test_wire import NOW, texts

LIMITS = {"max_ahead_ns": 10**9, "received_ns": NOW}
LABEL = SceneLabel(
    device_id="d", session_id="s", start_ns=NOW - 20, end_ns=NOW - 10, scene="Walk", said_by="ana", said_ns=NOW
)


@st.composite
def labels(draw: st.DrawFn) -> SceneLabel:
    start, end = sorted(draw(st.lists(st.integers(0, NOW), min_size=2, max_size=2, unique=True)))
    return SceneLabel(
        device_id=draw(texts), session_id=draw(st.none() | texts), start_ns=start, end_ns=end,
        scene=draw(st.none() | texts), said_by=draw(texts), said_ns=draw(st.integers(1, NOW)),
    )  # fmt: skip


def message(**change: object) -> bytes:
    fields = {
        "device_id": "d", "session_id": "s", "start_ns": NOW - 20, "end_ns": NOW - 10, "scene": "Walk", "said_by": "ana",
        "said_ns": NOW,
    } | change  # fmt: skip
    return pb.SceneLabel(**fields).SerializeToString()


@given(labels(), st.sampled_from([b"", b"\0abcd\0", b"\0abcd\2\0"]))
def test_what_is_encoded_is_decoded_plain_or_framed(label: SceneLabel, framing: bytes) -> None:
    assert decode_label(framing + encode_label(label), **LIMITS) == label


def valid_or_refused(value: bytes) -> None:
    try:
        label = decode_label(value, **LIMITS)
    except BatchError as error:
        Reason(error.reason)
        return
    assert label.device_id
    assert label.said_by
    assert 0 <= label.start_ns < label.end_ns <= NOW + 10**9
    assert 0 < label.said_ns <= NOW + 10**9
    assert label.scene != ""
    assert decode_label(encode_label(label), **LIMITS) == label


@settings(max_examples=300)
@given(st.binary(max_size=200), labels(), st.data())
def test_any_bytes_are_a_label_or_refused(noise: bytes, label: SceneLabel, data: st.DataObject) -> None:
    valid_or_refused(noise)
    value = bytearray(encode_label(label))
    for _ in range(data.draw(st.integers(1, 4))):
        value[data.draw(st.integers(0, len(value) - 1))] = data.draw(st.integers(0, 255))
    valid_or_refused(bytes(value))
    valid_or_refused(bytes(value[: data.draw(st.integers(0, len(value)))]))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, Reason.EMPTY),
        (b"", Reason.EMPTY),
        (message() + b"\x0a\x01d" * MAX_LABEL_BYTES, Reason.OVERSIZED),
        (b'{"device_id": "d"}', Reason.NOT_PROTOBUF),
        (message()[:-3], Reason.NOT_PROTOBUF),
        (b"\0\0\0\0\1", Reason.NOT_PROTOBUF),
        (b"\0\0\0\0\1\2\2" + message(), Reason.UNKNOWN_TYPE),
        (message(device_id=""), Reason.MISSING_ID),
        (message(said_by=""), Reason.MISSING_ID),
        (message(scene="x" * (MAX_TEXT + 1)), Reason.BAD_LABEL),
        (message(session_id="s\n"), Reason.BAD_LABEL),
        (message(said_ns=0), Reason.BAD_TIME),
        (message(said_ns=-1), Reason.BEFORE_EPOCH),
        (message(start_ns=-1), Reason.BEFORE_EPOCH),
        (message(end_ns=NOW + 10**9 + 1), Reason.FAR_FUTURE),
        (message(said_ns=NOW + 10**9 + 1), Reason.FAR_FUTURE),
        (message(end_ns=NOW - 20), Reason.BAD_INTERVAL),
        (message(end_ns=NOW - 21), Reason.BAD_INTERVAL),
    ],
)  # fmt: skip
def test_a_bad_label_is_refused_for_its_reason(value: bytes | None, reason: Reason) -> None:
    with pytest.raises(BatchError) as refused:
        decode_label(value, **LIMITS)
    assert refused.value.reason == reason


def test_nothing_said_is_a_withdrawal_and_no_session_any_session() -> None:
    assert decode_label(message(scene="", session_id=""), **LIMITS) == replace(LABEL, scene=None, session_id=None)


def test_the_largest_label_fits() -> None:
    text = "\N{ROCKET}" * MAX_TEXT
    value = message(device_id=text, session_id=text, scene=text, said_by=text)
    assert len(value) < MAX_LABEL_BYTES
    assert decode_label(value, **LIMITS).scene == text


def test_the_header_names_the_message() -> None:
    assert pb.SceneLabel.DESCRIPTOR.full_name in dict(LABEL_HEADERS)["content-type"].decode()
