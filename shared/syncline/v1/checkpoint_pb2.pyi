from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Probe(_message.Message):
    __slots__ = ("token_ids", "log_probs", "tolerance")
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    LOG_PROBS_FIELD_NUMBER: _ClassVar[int]
    TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    log_probs: _containers.RepeatedScalarFieldContainer[float]
    tolerance: float
    def __init__(self, token_ids: _Optional[_Iterable[int]] = ..., log_probs: _Optional[_Iterable[float]] = ..., tolerance: _Optional[float] = ...) -> None: ...

class CheckpointHandle(_message.Message):
    __slots__ = ("run_id", "version", "uri", "manifest_digest", "probe", "dtype")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    URI_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_DIGEST_FIELD_NUMBER: _ClassVar[int]
    PROBE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    version: int
    uri: str
    manifest_digest: str
    probe: Probe
    dtype: str
    def __init__(self, run_id: _Optional[str] = ..., version: _Optional[int] = ..., uri: _Optional[str] = ..., manifest_digest: _Optional[str] = ..., probe: _Optional[_Union[Probe, _Mapping]] = ..., dtype: _Optional[str] = ...) -> None: ...
