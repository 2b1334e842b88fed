"""The messages that ask generators for completions: of a prompt at its place in a step, or in an evaluation set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from services.coordinator.work.prompts import PlannedPrompt
from syncline import ids
from syncline.run_parts import Evaluation, Task
from syncline.runspec import RunSpec
from syncline.v1.rollout_pb2 import PURPOSE_EVALUATION, PURPOSE_TRAINING, PromptTask, SamplingParams, TaskKey


def training_task(
    spec: RunSpec, task: Task, prompt: PlannedPrompt, *, run_id: str, step: int, version: int, admitted_at: float
) -> PromptTask:
    """A prompt of `step`, for whoever holds `version`."""
    sampling = spec.generation
    return _prompt_task(
        prompt,
        task,
        key=TaskKey(run_id=run_id, step=step, prompt_index=prompt.index),
        version=version,
        sampling=SamplingParams(
            temperature=sampling.temperature, top_p=sampling.top_p, max_tokens=spec.max_tokens_of(task)
        ),
        seeds=(
            ids.sample_seed(spec.seed, step=step, prompt_index=prompt.index, sample_index=index)
            for index in range(sampling.samples_per_prompt)
        ),
        admitted_at=admitted_at,
    )


def evaluation_task(
    spec: RunSpec,
    evaluation: Evaluation,
    prompt: PlannedPrompt,
    *,
    run_id: str,
    version: int,
    seed_answers: Sequence[str],
    admitted_at: float,
) -> PromptTask:
    """A prompt of a set, to evaluate `version`; `seed_answers` are for rewards that compare."""
    return _prompt_task(
        prompt,
        evaluation,
        key=TaskKey(run_id=run_id, step=version, prompt_index=prompt.index, evaluation=evaluation.name),
        version=version,
        sampling=SamplingParams(
            temperature=evaluation.temperature, top_p=evaluation.top_p, max_tokens=spec.max_tokens_of(evaluation)
        ),
        seeds=(
            ids.evaluation_seed(spec.seed, name=evaluation.name, prompt_index=prompt.index, sample_index=index)
            for index in range(evaluation.samples)
        ),
        seed_answers=seed_answers,
        admitted_at=admitted_at,
    )


def _prompt_task(
    prompt: PlannedPrompt,
    part: Task | Evaluation,
    *,
    key: TaskKey,
    version: int,
    sampling: SamplingParams,
    seeds: Iterable[int],
    seed_answers: Sequence[str] = (),
    admitted_at: float,
) -> PromptTask:
    return PromptTask(
        key=key,
        purpose=PURPOSE_EVALUATION if key.evaluation else PURPOSE_TRAINING,
        version=version,
        prompt_token_ids=prompt.token_ids,
        sampling=sampling,
        seeds=seeds,
        task=part.name,
        reward_json=part.reward.model_dump_json(),
        answer=prompt.answer,
        prompt_text=prompt.text,
        seed_answers=seed_answers,
        messages_json=prompt.messages_json,
        admitted_at=admitted_at,
    )
