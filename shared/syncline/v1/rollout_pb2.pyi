from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Purpose(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PURPOSE_UNSPECIFIED: _ClassVar[Purpose]
    PURPOSE_TRAINING: _ClassVar[Purpose]
    PURPOSE_EVALUATION: _ClassVar[Purpose]

class FinishReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FINISH_REASON_UNSPECIFIED: _ClassVar[FinishReason]
    FINISH_REASON_STOP: _ClassVar[FinishReason]
    FINISH_REASON_LENGTH: _ClassVar[FinishReason]

class VerdictStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VERDICT_STATUS_UNSPECIFIED: _ClassVar[VerdictStatus]
    VERDICT_STATUS_SCORED: _ClassVar[VerdictStatus]
    VERDICT_STATUS_UNPARSABLE: _ClassVar[VerdictStatus]
    VERDICT_STATUS_TIMEOUT: _ClassVar[VerdictStatus]
    VERDICT_STATUS_UNAVAILABLE: _ClassVar[VerdictStatus]
PURPOSE_UNSPECIFIED: Purpose
PURPOSE_TRAINING: Purpose
PURPOSE_EVALUATION: Purpose
FINISH_REASON_UNSPECIFIED: FinishReason
FINISH_REASON_STOP: FinishReason
FINISH_REASON_LENGTH: FinishReason
VERDICT_STATUS_UNSPECIFIED: VerdictStatus
VERDICT_STATUS_SCORED: VerdictStatus
VERDICT_STATUS_UNPARSABLE: VerdictStatus
VERDICT_STATUS_TIMEOUT: VerdictStatus
VERDICT_STATUS_UNAVAILABLE: VerdictStatus

class TaskKey(_message.Message):
    __slots__ = ("run_id", "step", "prompt_index", "evaluation")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    PROMPT_INDEX_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    step: int
    prompt_index: int
    evaluation: str
    def __init__(self, run_id: _Optional[str] = ..., step: _Optional[int] = ..., prompt_index: _Optional[int] = ..., evaluation: _Optional[str] = ...) -> None: ...

class SamplingParams(_message.Message):
    __slots__ = ("temperature", "top_p", "max_tokens")
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    top_p: float
    max_tokens: int
    def __init__(self, temperature: _Optional[float] = ..., top_p: _Optional[float] = ..., max_tokens: _Optional[int] = ...) -> None: ...

class PromptTask(_message.Message):
    __slots__ = ("key", "purpose", "version", "prompt_token_ids", "sampling", "seeds", "task", "reward_json", "answer", "prompt_text", "admitted_at", "messages_json", "seed_answers")
    KEY_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    SEEDS_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    REWARD_JSON_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TEXT_FIELD_NUMBER: _ClassVar[int]
    ADMITTED_AT_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_JSON_FIELD_NUMBER: _ClassVar[int]
    SEED_ANSWERS_FIELD_NUMBER: _ClassVar[int]
    key: TaskKey
    purpose: Purpose
    version: int
    prompt_token_ids: _containers.RepeatedScalarFieldContainer[int]
    sampling: SamplingParams
    seeds: _containers.RepeatedScalarFieldContainer[int]
    task: str
    reward_json: str
    answer: str
    prompt_text: str
    admitted_at: float
    messages_json: str
    seed_answers: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, key: _Optional[_Union[TaskKey, _Mapping]] = ..., purpose: _Optional[_Union[Purpose, str]] = ..., version: _Optional[int] = ..., prompt_token_ids: _Optional[_Iterable[int]] = ..., sampling: _Optional[_Union[SamplingParams, _Mapping]] = ..., seeds: _Optional[_Iterable[int]] = ..., task: _Optional[str] = ..., reward_json: _Optional[str] = ..., answer: _Optional[str] = ..., prompt_text: _Optional[str] = ..., admitted_at: _Optional[float] = ..., messages_json: _Optional[str] = ..., seed_answers: _Optional[_Iterable[str]] = ...) -> None: ...

class Sample(_message.Message):
    __slots__ = ("token_ids", "log_probs", "finish_reason", "text", "versions")
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    LOG_PROBS_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    log_probs: _containers.RepeatedScalarFieldContainer[float]
    finish_reason: FinishReason
    text: str
    versions: _containers.RepeatedCompositeFieldContainer[VersionSpan]
    def __init__(self, token_ids: _Optional[_Iterable[int]] = ..., log_probs: _Optional[_Iterable[float]] = ..., finish_reason: _Optional[_Union[FinishReason, str]] = ..., text: _Optional[str] = ..., versions: _Optional[_Iterable[_Union[VersionSpan, _Mapping]]] = ...) -> None: ...

class VersionSpan(_message.Message):
    __slots__ = ("version", "start", "stop")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    version: int
    start: int
    stop: int
    def __init__(self, version: _Optional[int] = ..., start: _Optional[int] = ..., stop: _Optional[int] = ...) -> None: ...

class RolloutGroup(_message.Message):
    __slots__ = ("task", "samples", "generator", "generate_seconds", "manifest_digest")
    TASK_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    GENERATOR_FIELD_NUMBER: _ClassVar[int]
    GENERATE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_DIGEST_FIELD_NUMBER: _ClassVar[int]
    task: PromptTask
    samples: _containers.RepeatedCompositeFieldContainer[Sample]
    generator: str
    generate_seconds: float
    manifest_digest: str
    def __init__(self, task: _Optional[_Union[PromptTask, _Mapping]] = ..., samples: _Optional[_Iterable[_Union[Sample, _Mapping]]] = ..., generator: _Optional[str] = ..., generate_seconds: _Optional[float] = ..., manifest_digest: _Optional[str] = ...) -> None: ...

class Verdict(_message.Message):
    __slots__ = ("status", "score", "cause", "seconds", "raw_score")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    RAW_SCORE_FIELD_NUMBER: _ClassVar[int]
    status: VerdictStatus
    score: float
    cause: str
    seconds: float
    raw_score: float
    def __init__(self, status: _Optional[_Union[VerdictStatus, str]] = ..., score: _Optional[float] = ..., cause: _Optional[str] = ..., seconds: _Optional[float] = ..., raw_score: _Optional[float] = ...) -> None: ...

class ScoredGroup(_message.Message):
    __slots__ = ("group", "verdicts", "dropped_cause")
    GROUP_FIELD_NUMBER: _ClassVar[int]
    VERDICTS_FIELD_NUMBER: _ClassVar[int]
    DROPPED_CAUSE_FIELD_NUMBER: _ClassVar[int]
    group: RolloutGroup
    verdicts: _containers.RepeatedCompositeFieldContainer[Verdict]
    dropped_cause: str
    def __init__(self, group: _Optional[_Union[RolloutGroup, _Mapping]] = ..., verdicts: _Optional[_Iterable[_Union[Verdict, _Mapping]]] = ..., dropped_cause: _Optional[str] = ...) -> None: ...
