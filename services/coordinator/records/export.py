"""What a run trained on, as lines that people can take away: its rollouts, or its preference pairs.

A preference row is `{"prompt", "chosen", "rejected"}`, of texts where the prompt was text and of messages where it was
messages: the standard and the conversational form that other trainers read. The pairs are those that trained, as the
learner recorded them. GRPO trains on no pairs; of its groups this gives the pair that DPO would take: by the task's
rule, with the same seed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from random import Random
from typing import Any, Literal

from services.coordinator.records.run import Run
from syncline import ids, recording
from syncline.algo.pairs import build_pair_rule
from syncline.errors import NotFound
from syncline.rollout_rows import RolloutRow, SampleRow
from syncline.runspec import RunSpec

Form = Literal["rollouts", "preferences"]


def exported(run: Run, form: Form, *, task: str = "") -> Iterator[str]:
    """Lines of JSON, a block for each step made so far; `task` takes its rows alone.

    Raises NotFound at once, not with the first block.
    """
    if task and task not in (names := [one.name for one in run.spec.tasks]):
        raise NotFound(f"run {run.id} has no task {task!r}; it has {', '.join(names)}")
    made = range(run.record.step)
    missing = sorted(set(made) - set(recording.recorded_steps(run.storage)))
    if not made or len(missing) == len(made):
        cause = "has made no step yet" if not made else "recorded none: rollouts.record is false, or they were deleted"
        raise NotFound(f"run {run.id} has no rollouts to export; it {cause}")
    if missing:
        raise NotFound(
            f"the rollouts of run {run.id} are not whole: {len(missing)} steps lack, first step {missing[0]}"
        )
    return ("".join(_lines(run, step, form, task)) for step in made)


def _lines(run: Run, step: int, form: Form, task: str) -> Iterator[str]:
    for line in recording.read_step(run.storage, step):
        if form == "rollouts" and not task:
            yield line
            continue
        row = RolloutRow.model_validate_json(line)
        if task in ("", row.task):
            yield from [line] if form == "rollouts" else map(_line, preferences(run.spec, row))


def preferences(spec: RunSpec, row: RolloutRow) -> Iterator[dict[str, Any]]:
    """The pairs of one group, as other trainers read them."""
    for chosen, rejected in row.pairs or _pair_by_rule(spec, row):
        yield {
            "prompt": row.prompt,
            "chosen": _answer(row, row.samples[chosen]),
            "rejected": _answer(row, row.samples[rejected]),
        }


def _pair_by_rule(spec: RunSpec, row: RolloutRow) -> list[tuple[int, int]]:
    """What DPO would take, for a run whose algorithm has no pairs. Where a pair algorithm found none, nor does this."""
    (task,) = (task for task in spec.tasks if task.name == row.task)
    rng = Random(ids.pair_seed(spec.seed, step=row.step, prompt_index=row.prompt_index))
    samples, rewards = list(row.rewards), list(row.rewards.values())
    if len(rewards) < 2:
        return []
    pairing = build_pair_rule(task.pair_rule.model_dump()).one(rewards, rng)
    return [(samples[pair.chosen], samples[pair.rejected]) for pair in pairing.pairs]


def _answer(row: RolloutRow, sample: SampleRow) -> Any:
    return sample.text if isinstance(row.prompt, str) else [{"role": "assistant", "content": sample.text}]


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"
