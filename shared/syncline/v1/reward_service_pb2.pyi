from syncline.v1 import rollout_pb2 as _rollout_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ScoreItem(_message.Message):
    __slots__ = ("prompt_text", "completion", "answer", "messages_json", "tokens", "max_tokens", "seed_answer")
    PROMPT_TEXT_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_JSON_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SEED_ANSWER_FIELD_NUMBER: _ClassVar[int]
    prompt_text: str
    completion: str
    answer: str
    messages_json: str
    tokens: int
    max_tokens: int
    seed_answer: str
    def __init__(self, prompt_text: _Optional[str] = ..., completion: _Optional[str] = ..., answer: _Optional[str] = ..., messages_json: _Optional[str] = ..., tokens: _Optional[int] = ..., max_tokens: _Optional[int] = ..., seed_answer: _Optional[str] = ...) -> None: ...

class ScoreRequest(_message.Message):
    __slots__ = ("reward_json", "items")
    REWARD_JSON_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    reward_json: str
    items: _containers.RepeatedCompositeFieldContainer[ScoreItem]
    def __init__(self, reward_json: _Optional[str] = ..., items: _Optional[_Iterable[_Union[ScoreItem, _Mapping]]] = ...) -> None: ...

class ScoreResponse(_message.Message):
    __slots__ = ("verdicts",)
    VERDICTS_FIELD_NUMBER: _ClassVar[int]
    verdicts: _containers.RepeatedCompositeFieldContainer[_rollout_pb2.Verdict]
    def __init__(self, verdicts: _Optional[_Iterable[_Union[_rollout_pb2.Verdict, _Mapping]]] = ...) -> None: ...

class RewardServiceGetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RewardServiceGetStatusResponse(_message.Message):
    __slots__ = ("id", "rewards", "workers", "verdicts_total", "error")
    class VerdictsTotalEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    REWARDS_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    VERDICTS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    id: str
    rewards: _containers.RepeatedScalarFieldContainer[str]
    workers: int
    verdicts_total: _containers.ScalarMap[str, int]
    error: str
    def __init__(self, id: _Optional[str] = ..., rewards: _Optional[_Iterable[str]] = ..., workers: _Optional[int] = ..., verdicts_total: _Optional[_Mapping[str, int]] = ..., error: _Optional[str] = ...) -> None: ...
