"""Admits prompt tasks to Redis: only for published versions, at most one window ahead of the learner.

Nothing else limits the flow, and nothing else has to: what is in the system is bounded by
what was admitted (design, contract 2).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from redis.asyncio import Redis

from services.coordinator.prompts import PlannedPrompt, PromptPlan
from syncline import ids, keys
from syncline.algo.schedule import Schedule
from syncline.errors import Unavailable
from syncline.runspec import Evaluation, RunSpec
from syncline.streams import Streams
from syncline.v1.rollout_pb2 import PURPOSE_EVALUATION, PURPOSE_TRAINING, PromptTask, SamplingParams, TaskKey


class Admission:
    """Admits the training prompts of one run, each step once unless Redis lost its data."""

    def __init__(self, redis: Redis, *, run_id: str, spec: RunSpec, schedule: Schedule, plan: PromptPlan) -> None:
        self._redis = redis
        self._streams = Streams(redis)
        self._run_id = run_id
        self._spec = spec
        self.schedule = schedule
        self._plan = plan
        self._tasks = {task.name: task for task in spec.tasks}
        self.next_step = 0
        """First step that is not admitted yet; Redis holds the same number, or has lost something."""

    async def start(self, step: int) -> None:
        """Begin at `step` with an empty system."""
        await self._streams.purge_run(self._run_id)
        await self._streams.open_run(self._run_id)
        await self._redis.set(keys.admitted(self._run_id), step)
        self.next_step = step

    async def admit(self, *, learner_step: int, latest_version: int) -> range:
        """Admit every step that is admissible and not admitted yet; returns those steps.

        Raises Unavailable when Redis loses its data meanwhile; `lost` says so from then on.
        """
        allowed = self.schedule.admissible_steps(learner_step=learner_step, latest_version=latest_version)
        steps = range(max(self.next_step, allowed.start), allowed.stop)
        for step in steps:
            version = self.schedule.version_for_step(step)
            tasks = [self._task(step, version, prompt) for prompt in self._plan.for_step(step)]
            await self._streams.add_all(
                keys.prompts(self._run_id, version),
                run_id=self._run_id,
                payloads=[task.SerializeToString() for task in tasks],
            )
            self.next_step = step + 1
            if not await self._redis.set(keys.admitted(self._run_id), self.next_step, xx=True):
                raise Unavailable(f"Redis lost its data while step {step} was admitted")
        return steps

    async def lost(self) -> bool:
        """Whether Redis has lost what was admitted: all of it, or the last seconds before it was killed."""
        return await self._redis.get(keys.admitted(self._run_id)) != str(self.next_step).encode()

    def _task(self, step: int, version: int, prompt: PlannedPrompt) -> PromptTask:
        task = self._tasks[prompt.task]
        generation = self._spec.generation
        return PromptTask(
            key=TaskKey(run_id=self._run_id, step=step, prompt_index=prompt.index),
            purpose=PURPOSE_TRAINING,
            version=version,
            prompt_token_ids=prompt.token_ids,
            sampling=SamplingParams(
                temperature=generation.temperature, top_p=generation.top_p, max_tokens=self._spec.max_tokens_of(task)
            ),
            seeds=[
                ids.sample_seed(self._spec.seed, step=step, prompt_index=prompt.index, sample_index=index)
                for index in range(generation.samples_per_prompt)
            ],
            task=task.name,
            reward_json=task.reward.model_dump_json(),
            answer=prompt.answer,
            prompt_text=prompt.text,
            admitted_at=time.time(),
        )


def evaluation_tasks(
    spec: RunSpec, evaluation: Evaluation, prompts: Sequence[PlannedPrompt], *, run_id: str, version: int
) -> Iterable[PromptTask]:
    """The tasks that evaluate `version` on one set."""
    for prompt in prompts:
        yield PromptTask(
            key=TaskKey(run_id=run_id, step=version, prompt_index=prompt.index, evaluation=evaluation.name),
            purpose=PURPOSE_EVALUATION,
            version=version,
            prompt_token_ids=prompt.token_ids,
            sampling=SamplingParams(
                temperature=evaluation.temperature,
                top_p=evaluation.top_p,
                max_tokens=spec.max_tokens_of(evaluation),
            ),
            seeds=[
                ids.evaluation_seed(spec.seed, name=evaluation.name, prompt_index=prompt.index, sample_index=index)
                for index in range(evaluation.samples)
            ],
            task=evaluation.name,
            reward_json=evaluation.reward.model_dump_json(),
            answer=prompt.answer,
            prompt_text=prompt.text,
            admitted_at=time.time(),
        )
