"""Which prompts every step trains on, and which an evaluation set has."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from services.coordinator.work.plan import Plan, epochs
from services.coordinator.work.prompt_file import Row
from syncline.data_rows import Prompt
from syncline.errors import FieldProblem, InvalidSpec, RunFailed
from syncline.runspec import RunSpec


@dataclass(frozen=True, slots=True)
class PlannedPrompt:
    """A prompt at its place in a batch or in an evaluation set."""

    index: int
    task: str
    token_ids: tuple[int, ...]
    text: str
    answer: str
    messages_json: str = ""
    """The prompt as a JSON list of messages, where it was given so."""


Encode = Callable[[Prompt], tuple[tuple[int, ...], str]]
"""Prompt -> (token ids with special tokens, text as people should read it)."""


def planned(row: Row, encode: Encode, *, index: int, task: str) -> PlannedPrompt:
    """A row at its place, as the model sees it."""
    token_ids, text = encode(row.prompt)
    messages_json = "" if isinstance(row.prompt, str) else json.dumps(row.prompt)
    return PlannedPrompt(index, task, token_ids, text, row.answer, messages_json)


def check_room(rows: Sequence[Row], encode: Encode, *, context: int, max_tokens: int, field: str) -> None:
    """Raise InvalidSpec when no prompt leaves room for a completion of `max_tokens`. Encodes until one does."""
    room = context - max_tokens
    lengths = []
    for row in rows:
        lengths.append(len(encode(row.prompt)[0]))
        if lengths[-1] <= room:
            return
    shortest = min(lengths)
    problem = f"every prompt is too long: the shortest has {shortest} tokens, and the model's context is {context}"
    allowed = f"prompts of at most {room} tokens, which leaves {max_tokens} (max_tokens) to answer"
    raise InvalidSpec([FieldProblem(field, problem, allowed)])


def held_out(name: str, rows: Sequence[Row], encode: Encode, *, room: int) -> list[PlannedPrompt]:
    """The prompts of an evaluation set that fit into `room` tokens. Raises RunFailed when none does."""
    prompts = []
    for index, row in enumerate(rows):
        prompt = planned(row, encode, index=index, task=name)
        if len(prompt.token_ids) <= room:
            prompts.append(prompt)
    if not prompts:
        raise RunFailed(f"evaluation {name!r}: every prompt is too long for the model's context")
    return prompts


class PromptPlan:
    """The prompts of every step: each task's rows in seeded, shuffled epochs.

    A prompt that leaves no room for `max_tokens` in the model's context is skipped and counted.
    """

    def __init__(self, spec: RunSpec, rows: Mapping[str, Sequence[Row]], *, encode: Encode, context: int) -> None:
        self.too_long: dict[str, int] = {task.name: 0 for task in spec.tasks}
        """Different rows skipped so far, by task."""
        self._encode = encode
        decks = {
            task.name: self._deck(task.name, rows[task.name], seed=spec.seed, room=context - spec.max_tokens_of(task))
            for task in spec.tasks
        }
        self._plan = Plan(spec, decks)

    def for_step(self, step: int) -> Sequence[PlannedPrompt]:
        """The batch of a step, always the same. Raises RunFailed when every row of a task is too long."""
        return [replace(prompt, index=index) for index, prompt in enumerate(self._plan.for_step(step))]

    def _deck(self, task: str, rows: Sequence[Row], *, seed: int, room: int) -> Iterator[PlannedPrompt]:
        """The rows that fit into `room` tokens, without end, each encoded once."""
        known: dict[int, PlannedPrompt | None] = {}
        for order in epochs(len(rows), seed=seed, task=task):
            for row in order:
                if row not in known:
                    prompt = planned(rows[row], self._encode, index=0, task=task)
                    known[row] = prompt if len(prompt.token_ids) <= room else None
                    self.too_long[task] += known[row] is None
                if (fitting := known[row]) is not None:
                    yield fitting
            if self.too_long[task] == len(rows):
                raise RunFailed(f"task {task!r}: every prompt is too long for the model's context")
