from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class SceneLabel(_message.Message):
    __slots__ = ("device_id", "session_id", "start_ns", "end_ns", "scene", "said_by", "said_ns")
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    START_NS_FIELD_NUMBER: _ClassVar[int]
    END_NS_FIELD_NUMBER: _ClassVar[int]
    SCENE_FIELD_NUMBER: _ClassVar[int]
    SAID_BY_FIELD_NUMBER: _ClassVar[int]
    SAID_NS_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    session_id: str
    start_ns: int
    end_ns: int
    scene: str
    said_by: str
    said_ns: int
    def __init__(self, device_id: _Optional[str] = ..., session_id: _Optional[str] = ..., start_ns: _Optional[int] = ..., end_ns: _Optional[int] = ..., scene: _Optional[str] = ..., said_by: _Optional[str] = ..., said_ns: _Optional[int] = ...) -> None: ...
