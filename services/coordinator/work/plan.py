"""The plan that deals a run's work out to steps: a function of the run spec and its files alone.

What has place i in step t never depends on who asks, when, or how often. So a resumed run, or one whose Redis lost
its data, gets the same.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Generic, TypeVar

from syncline.ids import derived_seed
from syncline.runspec import RunSpec

Item = TypeVar("Item")


class Plan(Generic[Item]):
    """Deals the endless decks of the tasks to steps: tasks mixed in every batch by weight, each deck from its top."""

    def __init__(self, spec: RunSpec, decks: Mapping[str, Iterator[Item]]) -> None:
        self._weights = [(task.name, task.weight) for task in spec.tasks]
        self._batch_size = spec.prompts_per_step
        self._decks = decks
        self._dealt: list[list[Item]] = []

    def for_step(self, step: int) -> Sequence[Item]:
        """The batch of a step, always the same. Raises what a deck raises."""
        while len(self._dealt) <= step:
            first = len(self._dealt) * self._batch_size
            slots = range(first, first + self._batch_size)
            self._dealt.append([next(self._decks[task_of_slot(slot, self._weights)]) for slot in slots])
        return self._dealt[step]


def epochs(count: int, *, seed: int, task: str) -> Iterator[list[int]]:
    """Orders of `count` rows without end, each shuffled by a seed of its own."""
    epoch = 0
    while True:
        order = list(range(count))
        random.Random(derived_seed(seed, "order", task, epoch)).shuffle(order)
        yield order
        epoch += 1


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
