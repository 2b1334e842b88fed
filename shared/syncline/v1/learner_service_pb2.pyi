from syncline.v1 import checkpoint_pb2 as _checkpoint_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TrainRequest(_message.Message):
    __slots__ = ("run_id", "spec_json", "run_dir", "reported")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    SPEC_JSON_FIELD_NUMBER: _ClassVar[int]
    RUN_DIR_FIELD_NUMBER: _ClassVar[int]
    REPORTED_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    spec_json: str
    run_dir: str
    reported: int
    def __init__(self, run_id: _Optional[str] = ..., spec_json: _Optional[str] = ..., run_dir: _Optional[str] = ..., reported: _Optional[int] = ...) -> None: ...

class TrainResponse(_message.Message):
    __slots__ = ("loaded", "published", "step", "finished", "failed")
    LOADED_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    loaded: Loaded
    published: CheckpointPublished
    step: StepReport
    finished: Finished
    failed: Failed
    def __init__(self, loaded: _Optional[_Union[Loaded, _Mapping]] = ..., published: _Optional[_Union[CheckpointPublished, _Mapping]] = ..., step: _Optional[_Union[StepReport, _Mapping]] = ..., finished: _Optional[_Union[Finished, _Mapping]] = ..., failed: _Optional[_Union[Failed, _Mapping]] = ...) -> None: ...

class Loaded(_message.Message):
    __slots__ = ("first_step", "num_parameters", "published", "missed", "skipped")
    FIRST_STEP_FIELD_NUMBER: _ClassVar[int]
    NUM_PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_FIELD_NUMBER: _ClassVar[int]
    MISSED_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FIELD_NUMBER: _ClassVar[int]
    first_step: int
    num_parameters: int
    published: _containers.RepeatedCompositeFieldContainer[_checkpoint_pb2.CheckpointHandle]
    missed: _containers.RepeatedCompositeFieldContainer[StepReport]
    skipped: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, first_step: _Optional[int] = ..., num_parameters: _Optional[int] = ..., published: _Optional[_Iterable[_Union[_checkpoint_pb2.CheckpointHandle, _Mapping]]] = ..., missed: _Optional[_Iterable[_Union[StepReport, _Mapping]]] = ..., skipped: _Optional[_Iterable[str]] = ...) -> None: ...

class CheckpointPublished(_message.Message):
    __slots__ = ("handle", "seconds")
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    handle: _checkpoint_pb2.CheckpointHandle
    seconds: float
    def __init__(self, handle: _Optional[_Union[_checkpoint_pb2.CheckpointHandle, _Mapping]] = ..., seconds: _Optional[float] = ...) -> None: ...

class TaskReport(_message.Message):
    __slots__ = ("task", "groups", "dropped", "reward_mean", "verdicts", "pairs", "length_mean", "metrics", "causes", "rewarded", "samples", "tokens")
    class DroppedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class VerdictsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class CausesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    TASK_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    REWARD_MEAN_FIELD_NUMBER: _ClassVar[int]
    VERDICTS_FIELD_NUMBER: _ClassVar[int]
    PAIRS_FIELD_NUMBER: _ClassVar[int]
    LENGTH_MEAN_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    CAUSES_FIELD_NUMBER: _ClassVar[int]
    REWARDED_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    task: str
    groups: int
    dropped: _containers.ScalarMap[str, int]
    reward_mean: float
    verdicts: _containers.ScalarMap[str, int]
    pairs: int
    length_mean: float
    metrics: _containers.ScalarMap[str, float]
    causes: _containers.ScalarMap[str, int]
    rewarded: int
    samples: int
    tokens: int
    def __init__(self, task: _Optional[str] = ..., groups: _Optional[int] = ..., dropped: _Optional[_Mapping[str, int]] = ..., reward_mean: _Optional[float] = ..., verdicts: _Optional[_Mapping[str, int]] = ..., pairs: _Optional[int] = ..., length_mean: _Optional[float] = ..., metrics: _Optional[_Mapping[str, float]] = ..., causes: _Optional[_Mapping[str, int]] = ..., rewarded: _Optional[int] = ..., samples: _Optional[int] = ..., tokens: _Optional[int] = ...) -> None: ...

class StepReport(_message.Message):
    __slots__ = ("step", "version", "staleness", "tasks", "metrics", "trained", "refused", "wait_seconds", "update_seconds", "tokens", "samples")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class RefusedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    STEP_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STALENESS_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    TRAINED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    WAIT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    UPDATE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    step: int
    version: int
    staleness: int
    tasks: _containers.RepeatedCompositeFieldContainer[TaskReport]
    metrics: _containers.ScalarMap[str, float]
    trained: _containers.RepeatedScalarFieldContainer[int]
    refused: _containers.ScalarMap[str, int]
    wait_seconds: float
    update_seconds: float
    tokens: int
    samples: _containers.RepeatedCompositeFieldContainer[SampleRecord]
    def __init__(self, step: _Optional[int] = ..., version: _Optional[int] = ..., staleness: _Optional[int] = ..., tasks: _Optional[_Iterable[_Union[TaskReport, _Mapping]]] = ..., metrics: _Optional[_Mapping[str, float]] = ..., trained: _Optional[_Iterable[int]] = ..., refused: _Optional[_Mapping[str, int]] = ..., wait_seconds: _Optional[float] = ..., update_seconds: _Optional[float] = ..., tokens: _Optional[int] = ..., samples: _Optional[_Iterable[_Union[SampleRecord, _Mapping]]] = ...) -> None: ...

class SampleRecord(_message.Message):
    __slots__ = ("prompt_index", "task", "prompt", "completion", "answer", "reward", "verdict", "role", "generator")
    PROMPT_INDEX_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    REWARD_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    GENERATOR_FIELD_NUMBER: _ClassVar[int]
    prompt_index: int
    task: str
    prompt: str
    completion: str
    answer: str
    reward: float
    verdict: str
    role: str
    generator: str
    def __init__(self, prompt_index: _Optional[int] = ..., task: _Optional[str] = ..., prompt: _Optional[str] = ..., completion: _Optional[str] = ..., answer: _Optional[str] = ..., reward: _Optional[float] = ..., verdict: _Optional[str] = ..., role: _Optional[str] = ..., generator: _Optional[str] = ...) -> None: ...

class Finished(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: int
    def __init__(self, version: _Optional[int] = ...) -> None: ...

class Failed(_message.Message):
    __slots__ = ("code", "message")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    code: str
    message: str
    def __init__(self, code: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class UpdateRequest(_message.Message):
    __slots__ = ("run_id", "spec_json", "paused")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    SPEC_JSON_FIELD_NUMBER: _ClassVar[int]
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    spec_json: str
    paused: bool
    def __init__(self, run_id: _Optional[str] = ..., spec_json: _Optional[str] = ..., paused: _Optional[bool] = ...) -> None: ...

class UpdateResponse(_message.Message):
    __slots__ = ("step",)
    STEP_FIELD_NUMBER: _ClassVar[int]
    step: int
    def __init__(self, step: _Optional[int] = ...) -> None: ...

class StopRequest(_message.Message):
    __slots__ = ("run_id", "reason")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    reason: str
    def __init__(self, run_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class StopResponse(_message.Message):
    __slots__ = ("stopped",)
    STOPPED_FIELD_NUMBER: _ClassVar[int]
    stopped: bool
    def __init__(self, stopped: _Optional[bool] = ...) -> None: ...

class LearnerServiceGetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class LearnerServiceGetStatusResponse(_message.Message):
    __slots__ = ("id", "run_id", "step", "phase", "detail")
    ID_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    id: str
    run_id: str
    step: int
    phase: str
    detail: str
    def __init__(self, id: _Optional[str] = ..., run_id: _Optional[str] = ..., step: _Optional[int] = ..., phase: _Optional[str] = ..., detail: _Optional[str] = ...) -> None: ...
