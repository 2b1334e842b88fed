"""Rollouts as rows that people and other programs read: one JSON object for one prompt with its scored completions.

    {"prompt": "12+34=", "prompt_token_ids": [1, 5, ...], "task": "add", "answer": "46",
     "step": 0, "prompt_index": 0, "version": 0, "pairs": [[0, 3]],
     "samples": [{"text": "46", "token_ids": [8, 10, 2], "log_probs": [-0.1, -0.02, -0.3], "finish_reason": "stop",
                  "verdict": "scored", "reward": 1.0, "raw_reward": 1.0, "cause": ""}, ...]}

This is what a run records, what export gives out and what `rollouts: {from: ...}` reads. A file made elsewhere needs
`prompt`, `prompt_token_ids`, `task` and, for each sample, `text`, `token_ids`, `log_probs` and `reward`. Keys that are
not named here are refused, and so is a number that is written as a string.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import TypedDict

from syncline.algo.pairs import Pair
from syncline.v1.rollout_pb2 import (
    PURPOSE_TRAINING,
    PromptTask,
    RolloutGroup,
    Sample,
    ScoredGroup,
    TaskKey,
    Verdict,
    VersionSpan,
)
from syncline.wire_names import FINAL_VERDICTS, FINISH_REASON, FINISHES, VERDICT_STATUS, FinalVerdictName, FinishName

_FILE = "a rollout file"

TokenIds = Annotated[list[Annotated[int, Field(ge=0, lt=2**32, strict=True)]], Field(min_length=1)]
Number = Annotated[float, Field(allow_inf_nan=False, strict=True)]


class Message(TypedDict):
    """One turn of a conversation."""

    role: str
    content: str


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SampleRow(_Part):
    """One completion."""

    text: str
    """The completion without special tokens."""
    token_ids: TokenIds
    """End-of-text included where it was sampled."""
    log_probs: list[Number]
    """log p of each token where it was sampled, at temperature 1; natural logarithm."""
    reward: Number | None
    """The number that trains; null where a judge or a reward model gave none: the sample trains nothing."""
    finish_reason: FinishName = "stop"
    verdict: FinalVerdictName = "scored"
    raw_reward: Number | None = None
    """Before shaping; null where it is the same."""
    cause: str = ""
    """Why the verdict is what it is, where there is more to say."""

    @model_validator(mode="after")
    def _a_reward_for_what_is_scored(self) -> SampleRow:
        if self.reward is None and self.verdict == "scored":
            raise ValueError("a scored sample has a reward")
        return self

    @model_validator(mode="after")
    def _a_log_prob_for_each_token(self) -> SampleRow:
        if len(self.log_probs) != len(self.token_ids):
            raise ValueError(f"{len(self.log_probs)} log_probs for {len(self.token_ids)} token_ids")
        return self


class RolloutRow(_Part):
    """One prompt with its completions."""

    prompt: Annotated[str, Field(min_length=1)] | Annotated[list[Message], Field(min_length=1)]
    """Text that went to the model as it is, or messages that went through its chat template."""
    prompt_token_ids: TokenIds
    """The prompt as the model saw it, special tokens included."""
    task: str
    """Name of the task in the run spec."""
    answer: str = ""
    """Gold answer, where the reward needed one."""
    step: int = 0
    """Step that the group trained, in the run that recorded it."""
    prompt_index: int = 0
    """Its place in that step's batch."""
    version: int = 0
    """Version of that run's weights that generated it."""
    pairs: list[tuple[int, int]] = []
    """Samples that trained against each other, better and worse, as indices. Empty where the group had none."""
    samples: list[SampleRow]

    @property
    def rewards(self) -> dict[int, float]:
        """The number of each sample that has one, by its index."""
        return {index: sample.reward for index, sample in enumerate(self.samples) if sample.reward is not None}


def row_of(scored: ScoredGroup, *, rewards: Mapping[int, float], pairs: Iterable[Pair] = ()) -> RolloutRow:
    """The row of a group that trained; `rewards` are the numbers that its samples trained with, by index."""
    group, task = scored.group, scored.group.task
    return RolloutRow(
        prompt=json.loads(task.messages_json) if task.messages_json else task.prompt_text,
        prompt_token_ids=list(task.prompt_token_ids),
        task=task.task,
        answer=task.answer,
        step=task.key.step,
        prompt_index=task.key.prompt_index,
        version=task.version,
        pairs=[(pair.chosen, pair.rejected) for pair in pairs],
        samples=[
            SampleRow(
                text=sample.text,
                token_ids=list(sample.token_ids),
                log_probs=[_shortest(log_prob) for log_prob in sample.log_probs],
                reward=rewards.get(index),
                finish_reason=FINISHES.get(sample.finish_reason, "stop"),
                verdict=FINAL_VERDICTS[verdict.status],
                raw_reward=verdict.raw_score,
                cause=verdict.cause,
            )
            for index, (sample, verdict) in enumerate(zip(group.samples, scored.verdicts, strict=True))
        ],
    )


def group_of(row: RolloutRow, *, key: TaskKey) -> ScoredGroup:
    """The group that trains at `key`, as if version 0 of that run had generated it. Its pairs are found anew."""
    chat = not isinstance(row.prompt, str)
    task = PromptTask(
        key=key,
        purpose=PURPOSE_TRAINING,
        version=0,
        prompt_token_ids=row.prompt_token_ids,
        task=row.task,
        answer=row.answer,
        prompt_text=text_of(row.prompt),
        messages_json=json.dumps(row.prompt) if chat else "",
    )
    samples = [
        Sample(
            token_ids=sample.token_ids,
            log_probs=sample.log_probs,
            finish_reason=FINISH_REASON[sample.finish_reason],
            text=sample.text,
            versions=[VersionSpan(version=0, start=0, stop=len(sample.token_ids))],
        )
        for sample in row.samples
    ]
    verdicts = [
        Verdict(
            status=VERDICT_STATUS[sample.verdict],
            score=sample.reward,
            raw_score=sample.raw_reward if sample.raw_reward is not None else sample.reward or 0.0,
            cause=sample.cause,
        )
        for sample in row.samples
    ]
    return ScoredGroup(group=RolloutGroup(task=task, samples=samples, generator=_FILE), verdicts=verdicts)


def text_of(prompt: str | Sequence[Mapping[str, Any]]) -> str:
    """The prompt as people should read it."""
    return prompt if isinstance(prompt, str) else "\n".join(message["content"] for message in prompt)


def _shortest(value: float) -> float:
    """A 32-bit float in as few digits as name it: nine always do."""
    return float(f"{value:.9g}")
