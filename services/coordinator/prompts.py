"""Prompt files and the plan that deals them out to steps.

The plan is a function of the run spec alone: which prompt has index i in step t never depends
on who asks, when, or how often. So a resumed run, or one whose Redis lost its data, gets the same prompts.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from syncline.errors import FieldProblem, InvalidSpec, RunFailed
from syncline.ids import derived_seed
from syncline.rewardspec import RewardSpec
from syncline.runspec import RunSpec

Prompt = str | list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a prompt file. A string prompt goes to the model as it is, messages by its chat template."""

    prompt: Prompt
    answer: str


@dataclass(frozen=True, slots=True)
class PlannedPrompt:
    """A prompt at its place in a batch or in an evaluation set."""

    index: int
    task: str
    token_ids: tuple[int, ...]
    text: str
    answer: str


Encode = Callable[[Prompt], tuple[tuple[int, ...], str]]
"""Prompt -> (token ids with special tokens, text as people should read it)."""


def read_rows(path: Path, *, field: str, reward: RewardSpec) -> list[Row]:
    """Read and check a JSONL or Parquet file. Raises InvalidSpec naming `field` and the line."""
    rows: list[Row] = []
    for line, record in enumerate(_records(path, field), start=1):
        rows.append(_row(record, where=f"{path.name} line {line}", field=field, reward=reward))
    if not rows:
        raise _invalid(field, f"{path} holds no rows", "a file with at least one prompt")
    return rows


def _records(path: Path, field: str) -> Iterator[Any]:
    if path.suffix == ".parquet":
        from pyarrow import ArrowInvalid, parquet

        try:
            yield from parquet.read_table(path).to_pylist()
        except ArrowInvalid as error:
            raise _invalid(field, f"{path} is no Parquet file ({error})", "Parquet or JSONL") from error
        return
    with path.open(encoding="utf-8") as file:
        for line, text in enumerate(file, start=1):
            if text.strip():
                try:
                    yield json.loads(text)
                except json.JSONDecodeError as error:
                    raise _invalid(
                        field, f"{path.name} line {line} is no JSON ({error})", "one JSON object a line"
                    ) from error


def _row(record: Any, *, where: str, field: str, reward: RewardSpec) -> Row:
    if not isinstance(record, Mapping):
        raise _invalid(field, f"{where} is a {type(record).__name__}", 'an object like {"prompt": ..., "answer": ...}')
    prompt = record.get("prompt")
    if not _is_prompt(prompt):
        problem = "has no `prompt`" if "prompt" not in record else "has a `prompt` that is neither text nor messages"
        raise _invalid(field, f"{where} {problem}", 'a non-empty string, or [{"role": ..., "content": ...}, ...]')
    answer = record.get("answer")
    if reward.type == "math" and (answer is None or str(answer).strip() == ""):
        raise _invalid(field, f"{where} has no `answer`", "a gold answer in every row of a task with a math reward")
    return Row(prompt=prompt, answer="" if answer is None else str(answer))


def _is_prompt(prompt: Any) -> TypeGuard[Prompt]:
    if isinstance(prompt, str):
        return prompt != ""
    return (
        isinstance(prompt, list)
        and len(prompt) > 0
        and all(isinstance(m, dict) and {"role", "content"} <= m.keys() for m in prompt)
    )


def _invalid(field: str, problem: str, allowed: str) -> InvalidSpec:
    return InvalidSpec([FieldProblem(field, problem, allowed)])


def held_out(name: str, rows: Sequence[Row], encode: Encode, *, room: int) -> list[PlannedPrompt]:
    """The prompts of an evaluation set that fit into `room` tokens. Raises RunFailed when none does."""
    prompts = []
    for index, row in enumerate(rows):
        token_ids, text = encode(row.prompt)
        if len(token_ids) <= room:
            prompts.append(PlannedPrompt(index=index, task=name, token_ids=token_ids, text=text, answer=row.answer))
    if not prompts:
        raise RunFailed(f"evaluation {name!r}: every prompt is too long for the model; shorten max_tokens")
    return prompts


class PromptPlan:
    """Deals prompts to steps: tasks mixed in every batch by weight, each task's rows in seeded, shuffled epochs.

    A prompt that leaves no room for `max_tokens` in the model's context is skipped and counted.
    """

    def __init__(self, spec: RunSpec, rows: Mapping[str, Sequence[Row]], *, encode: Encode, context: int) -> None:
        self._spec = spec
        self.too_long: dict[str, int] = {task.name: 0 for task in spec.tasks}
        """Different rows skipped so far, by task."""
        self._deals = {
            task.name: _Deal(spec.seed, task.name, rows[task.name], encode, room=context - spec.max_tokens_of(task))
            for task in spec.tasks
        }
        self._dealt: list[list[PlannedPrompt]] = []

    def for_step(self, step: int) -> Sequence[PlannedPrompt]:
        """The batch of a step, always the same. Raises RunFailed when every row of a task is too long."""
        while len(self._dealt) <= step:
            self._dealt.append(self._deal(len(self._dealt)))
        return self._dealt[step]

    def _deal(self, step: int) -> list[PlannedPrompt]:
        batch = []
        first_slot = step * self._spec.prompts_per_step
        for index in range(self._spec.prompts_per_step):
            name = task_of_slot(first_slot + index, [(task.name, task.weight) for task in self._spec.tasks])
            deal = self._deals[name]
            row, (token_ids, text) = deal.next()
            self.too_long[name] = deal.skipped
            batch.append(PlannedPrompt(index=index, task=name, token_ids=token_ids, text=text, answer=row.answer))
        return batch


class _Deal:
    """One task's rows, epoch after epoch, each epoch shuffled by a seed of its own."""

    def __init__(self, seed: int, task: str, rows: Sequence[Row], encode: Encode, *, room: int) -> None:
        self._seed, self._task, self._rows, self._encode, self._room = seed, task, rows, encode, room
        self._epoch = -1
        self._order: list[int] = []
        self._encoded: dict[int, tuple[tuple[int, ...], str] | None] = {}

    @property
    def skipped(self) -> int:
        return sum(1 for encoded in self._encoded.values() if encoded is None)

    def next(self) -> tuple[Row, tuple[tuple[int, ...], str]]:
        while True:
            if not self._order:
                if self.skipped == len(self._rows):
                    raise RunFailed(f"task {self._task!r}: every prompt is too long for the model; shorten max_tokens")
                self._epoch += 1
                self._order = list(range(len(self._rows)))
                random.Random(derived_seed(self._seed, "order", self._task, self._epoch)).shuffle(self._order)
                self._order.reverse()
            index = self._order.pop()
            if index not in self._encoded:
                token_ids, text = self._encode(self._rows[index].prompt)
                self._encoded[index] = (token_ids, text) if len(token_ids) <= self._room else None
            if (encoded := self._encoded[index]) is not None:
                return self._rows[index], encoded


def task_of_slot(slot: int, weights: Sequence[tuple[str, float]]) -> str:
    """The task of a batch slot (counted through the run), so that any stretch holds the tasks by weight.

    Van der Corput points against the cumulative weights: evenly spread, and no history is needed.
    """
    total = sum(weight for _, weight in weights)
    point, denominator, k = 0.0, 1.0, slot
    while k:
        denominator *= 2
        k, bit = divmod(k, 2)
        point += bit / denominator
    reached = 0.0
    for name, weight in weights:
        reached += weight / total
        if point < reached:
            return name
    return weights[-1][0]
