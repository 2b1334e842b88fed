"""What the micro-batches of a step measured, row by row: pooled by task, over tasks, and over ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from services.learner.batch import PlannedGroup, TokenRows
from services.learner.ranks import Ranks
from syncline.algo.algorithm import LossBatch, LossOutput, Mean, RowMeans
from syncline.algo.metrics import largest_mismatch, token_metrics

Means = dict[str, Mean]
"""By metric."""
NOTHING = Mean(0.0, 0.0)


@dataclass(slots=True)
class Tally:
    """Grows by a micro-batch at a time, on each rank by its own."""

    loss: float = 0.0
    mismatch_max: float = 0.0
    padding: Mean = NOTHING
    tasks: dict[str, Means] = field(default_factory=dict)

    def add(self, groups: Sequence[PlannedGroup], rows: TokenRows, batch: LossBatch, output: LossOutput) -> None:
        """A micro-batch, whose rows are those of `groups`, one group after the other."""
        positions = rows.input_ids_RW.numel()
        self.padding += Mean(positions - rows.num_tokens, positions)
        self.mismatch_max = max(self.mismatch_max, largest_mismatch(batch))
        task_of_row = [group.scored.group.task.task for group in groups for _ in group.plan.rows]
        measured: Mapping[str, RowMeans] = {**output.metrics, **token_metrics(batch)}
        for name, means in measured.items():
            for task, total, weight in zip(task_of_row, means.total_R.tolist(), means.weight_R.tolist(), strict=True):
                _add(self.tasks.setdefault(task, {}), name, Mean(total, weight))

    def over(self, ranks: Ranks) -> Tally:
        """What all ranks found, added up in the order of ranks: the same on each of them."""
        if ranks.size == 1:
            return self
        own = {
            task: {name: [mean.total, mean.weight] for name, mean in means.items()}
            for task, means in self.tasks.items()
        }
        together = Tally()
        found = ranks.gather([self.loss, self.mismatch_max, [self.padding.total, self.padding.weight], own])
        for loss, mismatch_max, padding, tasks in found:
            together.loss += loss
            together.mismatch_max = max(together.mismatch_max, mismatch_max)
            together.padding += Mean(*padding)
            for task, means in tasks.items():
                for name, mean in means.items():
                    _add(together.tasks.setdefault(task, {}), name, Mean(*mean))
        return together

    def metrics(self) -> dict[str, float]:
        """Of the step: means over all tasks, and what is known of the step alone."""
        means: Means = {}
        for of_task in self.tasks.values():
            for name, mean in of_task.items():
                _add(means, name, mean)
        of_step = {"loss": self.loss, "padding_waste": self.padding.value, "mismatch_max": self.mismatch_max}
        return {**_values(means), **of_step}

    def task_metrics(self) -> dict[str, dict[str, float]]:
        """By task; a task that trained nothing is missing."""
        return {task: _values(means) for task, means in self.tasks.items()}


def _add(means: Means, name: str, mean: Mean) -> None:
    means[name] = means.get(name, NOTHING) + mean


def _values(means: Mapping[str, Mean]) -> dict[str, float]:
    """What was measured at all: in a step without pairs, say, no pair's margin."""
    return {name: mean.value for name, mean in means.items() if mean.weight}
