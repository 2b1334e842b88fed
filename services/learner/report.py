"""The report of a step: what arrived, what trained, and what people should look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from services.learner.batch import PlannedGroup
from services.learner.door import rewards_of
from services.learner.step import Update
from syncline.v1.learner_service_pb2 import SampleRecord, StepReport, TaskReport
from syncline.wire_names import FINAL_VERDICTS

_TASKS_SHOWN = 2


def step_report(
    update: Update,
    *,
    step: int,
    version: int,
    shaped: Collection[str],
    refused: Mapping[str, int],
    wait_seconds: float,
    update_seconds: float,
) -> StepReport:
    """Everything that is known of one step; `shaped` are the tasks whose rewards are shaped."""
    by_task: dict[str, list[PlannedGroup]] = {}
    for group in update.planned:
        by_task.setdefault(group.scored.group.task.task, []).append(group)
    return StepReport(
        step=step,
        version=version,
        staleness=step - version,
        tasks=[
            _task_report(task, groups, metrics=update.task_metrics.get(task, {}), shaped=task in shaped)
            for task, groups in by_task.items()
        ],
        metrics=update.metrics,
        trained=[group.scored.group.task.key.prompt_index for group in update.planned if group.plan.rows],
        refused=refused,
        wait_seconds=wait_seconds,
        update_seconds=update_seconds,
        tokens=sum(_lengths(update.planned)),
        samples=[record for groups in list(by_task.values())[:_TASKS_SHOWN] for record in _two_samples(groups)],
    )


def _task_report(
    task: str, groups: Sequence[PlannedGroup], *, metrics: Mapping[str, float], shaped: bool
) -> TaskReport:
    rewards = [reward for group in groups for reward in rewards_of(group.scored).values()]
    lengths = _lengths(groups)
    return TaskReport(
        task=task,
        groups=len(groups),
        dropped=Counter(group.plan.cause for group in groups if not group.plan.rows),
        reward_mean=sum(rewards) / len(rewards) if rewards else 0.0,
        verdicts=Counter(FINAL_VERDICTS[verdict.status] for group in groups for verdict in group.scored.verdicts),
        pairs=sum(len(group.plan.pairs) for group in groups),
        length_mean=sum(lengths) / len(lengths) if lengths else 0.0,
        metrics={**metrics, **({"raw_reward": _raw_mean(groups)} if shaped and rewards else {})},
    )


def _raw_mean(groups: Sequence[PlannedGroup]) -> float:
    """The mean reward before shaping, over the same samples as `reward_mean`."""
    raw = [verdict.raw_score for group in groups for verdict in group.scored.verdicts if verdict.HasField("score")]
    return sum(raw) / len(raw)


def _lengths(groups: Iterable[PlannedGroup]) -> list[int]:
    return [len(sample.token_ids) for group in groups for sample in group.scored.group.samples]


def _two_samples(groups: Sequence[PlannedGroup]) -> list[SampleRecord]:
    """The first pair; without pairs the best and the worst completion of the first group that has any."""
    for group in groups:
        if group.plan.pairs:
            pair = group.plan.pairs[0]
            return [_record(group, pair.chosen, role="chosen"), _record(group, pair.rejected, role="rejected")]
    for group in groups:
        rewards = rewards_of(group.scored)
        if rewards:
            best = max(rewards, key=lambda i: rewards[i])
            worst = min(reversed(rewards), key=lambda i: rewards[i])
            return [_record(group, i, role="") for i in dict.fromkeys((best, worst))]
    return []


def _record(group: PlannedGroup, index: int, *, role: str) -> SampleRecord:
    rollout, verdict = group.scored.group, group.scored.verdicts[index]
    return SampleRecord(
        prompt_index=rollout.task.key.prompt_index,
        task=rollout.task.task,
        prompt=rollout.task.prompt_text,
        completion=rollout.samples[index].text,
        answer=rollout.task.answer,
        reward=verdict.score,
        verdict=FINAL_VERDICTS[verdict.status],
        role=role,
        generator=rollout.generator,
    )
