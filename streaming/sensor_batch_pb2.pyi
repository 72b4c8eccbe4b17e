from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SensorBatch(_message.Message):
    __slots__ = ("device_id", "session_id", "sequence", "subject_id", "phone_model", "position", "cohort", "scene", "end_of_session", "blocks")
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_ID_FIELD_NUMBER: _ClassVar[int]
    PHONE_MODEL_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    COHORT_FIELD_NUMBER: _ClassVar[int]
    SCENE_FIELD_NUMBER: _ClassVar[int]
    END_OF_SESSION_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    session_id: str
    sequence: int
    subject_id: str
    phone_model: str
    position: str
    cohort: str
    scene: str
    end_of_session: bool
    blocks: _containers.RepeatedCompositeFieldContainer[SensorBlock]
    def __init__(self, device_id: _Optional[str] = ..., session_id: _Optional[str] = ..., sequence: _Optional[int] = ..., subject_id: _Optional[str] = ..., phone_model: _Optional[str] = ..., position: _Optional[str] = ..., cohort: _Optional[str] = ..., scene: _Optional[str] = ..., end_of_session: _Optional[bool] = ..., blocks: _Optional[_Iterable[_Union[SensorBlock, _Mapping]]] = ...) -> None: ...

class SensorBlock(_message.Message):
    __slots__ = ("sensor", "start_ns", "period_ns", "offsets_us", "axes", "values")
    SENSOR_FIELD_NUMBER: _ClassVar[int]
    START_NS_FIELD_NUMBER: _ClassVar[int]
    PERIOD_NS_FIELD_NUMBER: _ClassVar[int]
    OFFSETS_US_FIELD_NUMBER: _ClassVar[int]
    AXES_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    sensor: str
    start_ns: int
    period_ns: int
    offsets_us: _containers.RepeatedScalarFieldContainer[int]
    axes: _containers.RepeatedScalarFieldContainer[str]
    values: bytes
    def __init__(self, sensor: _Optional[str] = ..., start_ns: _Optional[int] = ..., period_ns: _Optional[int] = ..., offsets_us: _Optional[_Iterable[int]] = ..., axes: _Optional[_Iterable[str]] = ..., values: _Optional[bytes] = ...) -> None: ...
