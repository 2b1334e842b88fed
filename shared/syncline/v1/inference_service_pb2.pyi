from syncline.v1 import checkpoint_pb2 as _checkpoint_pb2
from syncline.v1 import rollout_pb2 as _rollout_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LoadCheckpointRequest(_message.Message):
    __slots__ = ("handle",)
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    handle: _checkpoint_pb2.CheckpointHandle
    def __init__(self, handle: _Optional[_Union[_checkpoint_pb2.CheckpointHandle, _Mapping]] = ...) -> None: ...

class LoadCheckpointResponse(_message.Message):
    __slots__ = ("stage_seconds", "drain_seconds", "swap_seconds", "probe_error")
    STAGE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    DRAIN_SECONDS_FIELD_NUMBER: _ClassVar[int]
    SWAP_SECONDS_FIELD_NUMBER: _ClassVar[int]
    PROBE_ERROR_FIELD_NUMBER: _ClassVar[int]
    stage_seconds: float
    drain_seconds: float
    swap_seconds: float
    probe_error: float
    def __init__(self, stage_seconds: _Optional[float] = ..., drain_seconds: _Optional[float] = ..., swap_seconds: _Optional[float] = ..., probe_error: _Optional[float] = ...) -> None: ...

class GenerateRequest(_message.Message):
    __slots__ = ("task",)
    TASK_FIELD_NUMBER: _ClassVar[int]
    task: _rollout_pb2.PromptTask
    def __init__(self, task: _Optional[_Union[_rollout_pb2.PromptTask, _Mapping]] = ...) -> None: ...

class GenerateResponse(_message.Message):
    __slots__ = ("group",)
    GROUP_FIELD_NUMBER: _ClassVar[int]
    group: _rollout_pb2.RolloutGroup
    def __init__(self, group: _Optional[_Union[_rollout_pb2.RolloutGroup, _Mapping]] = ...) -> None: ...

class DrainRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DrainResponse(_message.Message):
    __slots__ = ("handed_back",)
    HANDED_BACK_FIELD_NUMBER: _ClassVar[int]
    handed_back: int
    def __init__(self, handed_back: _Optional[int] = ...) -> None: ...

class InferenceServiceGetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class InferenceServiceGetStatusResponse(_message.Message):
    __slots__ = ("id", "engine", "run_id", "version", "manifest_digest", "running", "groups_total", "tokens_total", "phase", "error")
    ID_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_DIGEST_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    GROUPS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    TOKENS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    id: str
    engine: str
    run_id: str
    version: int
    manifest_digest: str
    running: int
    groups_total: int
    tokens_total: int
    phase: str
    error: str
    def __init__(self, id: _Optional[str] = ..., engine: _Optional[str] = ..., run_id: _Optional[str] = ..., version: _Optional[int] = ..., manifest_digest: _Optional[str] = ..., running: _Optional[int] = ..., groups_total: _Optional[int] = ..., tokens_total: _Optional[int] = ..., phase: _Optional[str] = ..., error: _Optional[str] = ...) -> None: ...
