"""Tasks that train nothing: a run whose steps leave the weights as they were is no success that people should trust.

Pure: from the rows of steps (services.coordinator.records.reports) to words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from syncline.errors import FieldProblem

_FIRST_WARNING = 5
"""Steps in a row without a trained group of a task that are worth a warning; the next come when they have doubled."""
_REMEDY = (
    "prompts that the model gets right at times and wrong at others; look at the samples, at the gold answers "
    "(syncline score --golds), at max_tokens and at the temperature"
)


def warnings(rows: Sequence[Mapping[str, Any]]) -> list[FieldProblem]:
    """What to say after the newest step, most often nothing."""
    tasks = [task["task"] for task in rows[-1]["tasks"]] if rows else []
    return [found for task in tasks if (found := _warning(task, rows)) is not None]


def updates(rows: Sequence[Mapping[str, Any]]) -> int:
    """Steps that changed the weights."""
    return sum(1 for row in rows if row["trained"])


def ending(rows: Sequence[Mapping[str, Any]]) -> str:
    """What is wrong with a run whose steps are all made, or ""."""
    if not rows or updates(rows):
        return ""
    causes = _shown(sum((Counter(row["dropped"]) for row in rows), Counter[str]()))
    return f"0 updates changed the weights: no group of {len(rows)} steps trained ({causes}), so the model is the seed"


def _warning(task: str, rows: Sequence[Mapping[str, Any]]) -> FieldProblem | None:
    idle: list[Mapping[str, Any]] = []  # the task's part of the newest steps in which none of its groups trained
    first = 0
    for row in reversed(rows):
        part = next((one for one in row["tasks"] if one["task"] == task), None)
        if part is None:  # a small weight: not in every batch
            continue
        if part["groups"] > sum(part["dropped"].values()):
            break
        idle.append(part)
        first = row["step"]
    if not _is_due(len(idle)):
        return None
    groups = sum(part["groups"] for part in idle)
    causes = _shown(sum((Counter(part["dropped"]) for part in idle), Counter[str]()))
    problem = f"none of its {groups} prompts trained in the last {len(idle)} steps, from step {first} on: {causes}"
    if rewarded := sum(part["rewarded"] for part in idle):
        reward = sum(part["reward_mean"] * part["rewarded"] for part in idle if part["rewarded"]) / rewarded
        problem += f"; mean reward {reward:.3g}"
    return FieldProblem(f"task {task}", problem, _REMEDY)


def _is_due(steps: int) -> bool:
    times, rest = divmod(steps, _FIRST_WARNING)
    return times > 0 and rest == 0 and times & (times - 1) == 0


def _shown(causes: Mapping[str, int]) -> str:
    return ", ".join(f"{cause.replace('_', ' ')} {count}" for cause, count in sorted(causes.items()))
