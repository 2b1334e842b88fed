"""Where the work of a step comes from, and on which stream it enters the system.

Prompts enter on the stream of a version, for generators; recorded groups enter where generated and scored ones
arrive, on the learner's own stream. Admission treats both alike.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import ClassVar, Protocol

from services.coordinator.work.plan import Plan, epochs
from services.coordinator.work.prompt_tasks import training_task
from services.coordinator.work.prompts import PromptPlan
from services.coordinator.work.rollout_file import RolloutFile, Span
from syncline import keys
from syncline.rollout_rows import group_of
from syncline.runspec import RunSpec
from syncline.v1.rollout_pb2 import TaskKey


class Source(Protocol):
    """The training work of one run."""

    @property
    def generated(self) -> bool:
        """Whether generators have to answer it."""

    @property
    def too_long(self) -> dict[str, int]:
        """Rows left out so far, as they do not fit the model, by task."""

    def stream(self, version: int) -> str:
        """Redis key of the stream for steps of `version`."""

    def payloads(self, step: int, version: int) -> Sequence[bytes]:
        """The messages of a step, one a prompt, always the same but for the time. Raises RunFailed."""


class LivePrompts:
    """Prompt tasks, to be generated and scored."""

    generated: ClassVar[bool] = True

    def __init__(self, spec: RunSpec, plan: PromptPlan, *, run_id: str) -> None:
        self._spec = spec
        self._plan = plan
        self._run_id = run_id
        self._tasks = {task.name: task for task in spec.tasks}

    @property
    def too_long(self) -> dict[str, int]:
        return self._plan.too_long

    def stream(self, version: int) -> str:
        return keys.prompts(self._run_id, version)

    def payloads(self, step: int, version: int) -> Sequence[bytes]:
        tasks = (
            training_task(
                self._spec,
                self._tasks[prompt.task],
                prompt,
                run_id=self._run_id,
                step=step,
                version=version,
                admitted_at=time.time(),
            )
            for prompt in self._plan.for_step(step)
        )
        return [task.SerializeToString() for task in tasks]


class RecordedGroups:
    """Scored groups of a file. The first pass takes each task's rows as they lie, so that an exported run can be
    trained again step by step; later passes are shuffled, each by a seed of its own."""

    generated: ClassVar[bool] = False

    def __init__(self, spec: RunSpec, file: RolloutFile, *, run_id: str) -> None:
        self._file = file
        self._run_id = run_id
        self._plan = Plan(spec, {name: _deck(name, rows, seed=spec.seed) for name, rows in file.rows.items()})

    @property
    def too_long(self) -> dict[str, int]:
        return self._file.too_long

    def stream(self, version: int) -> str:
        return keys.scored(self._run_id)

    def payloads(self, step: int, version: int) -> Sequence[bytes]:
        assert version == 0, "rollouts of a file are of one fixed policy"
        return [
            group_of(
                self._file.read(span), key=TaskKey(run_id=self._run_id, step=step, prompt_index=index)
            ).SerializeToString()
            for index, span in enumerate(self._plan.for_step(step))
        ]


def _deck(task: str, rows: Sequence[Span], *, seed: int) -> Iterator[Span]:
    """Every row once in its order, then in shuffled epochs without end."""
    yield from rows
    for order in epochs(len(rows), seed=seed, task=task):
        yield from (rows[index] for index in order)
