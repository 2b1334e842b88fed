"""The report of a step: what arrived, what trained, and what people should look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain
from statistics import fmean, pstdev

from services.learner.batch import PlannedGroup
from services.learner.door import rewards_of
from services.learner.step import Update
from syncline.v1.learner_service_pb2 import SampleRecord, StepReport, TaskReport
from syncline.v1.rollout_pb2 import FINISH_REASON_LENGTH, VERDICT_STATUS_SCORED
from syncline.wire_names import FINAL_VERDICTS

_TASKS_SHOWN = 2
_CAUSES_TOLD = 8
_CAUSE_CHARS = 60


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
        metrics={**update.metrics, **_group_metrics(update.planned)},
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
        reward_mean=fmean(rewards) if rewards else None,
        verdicts=Counter(FINAL_VERDICTS[verdict.status] for group in groups for verdict in group.scored.verdicts),
        causes=_causes(groups),
        pairs=sum(len(group.plan.pairs) for group in groups),
        length_mean=fmean(lengths) if lengths else None,
        metrics={
            **metrics,
            **_group_metrics(groups),
            **({"raw_reward": _raw_mean(groups)} if shaped and rewards else {}),
        },
        rewarded=len(rewards),
        samples=len(lengths),
        tokens=sum(lengths),
    )


def _causes(groups: Sequence[PlannedGroup]) -> dict[str, int]:
    """Samples without an ordinary score, by verdict and cause."""
    counts = Counter(
        f"{FINAL_VERDICTS[verdict.status]}: {verdict.cause[:_CAUSE_CHARS] or 'no cause given'}"
        for group in groups
        for verdict in group.scored.verdicts
        if verdict.status != VERDICT_STATUS_SCORED
    )
    told = dict(counts.most_common(_CAUSES_TOLD))
    for cause in counts.keys() - told.keys():
        rest = f"{cause.partition(':')[0]}: other causes"
        told[rest] = told.get(rest, 0) + counts[cause]
    return told


def _group_metrics(groups: Sequence[PlannedGroup]) -> dict[str, float]:
    """What the samples show whether they train or not: the spread of rewards, the shares of groups that are all right
    and all wrong (where rewards are 1 and 0), and the share of completions that were cut off at max_tokens."""
    samples = [sample for group in groups for sample in group.scored.group.samples]
    by_group = [rewards for group in groups if (rewards := list(rewards_of(group.scored).values()))]
    rewards = list(chain.from_iterable(by_group))
    found: dict[str, float] = {}
    if samples:
        found["truncated"] = fmean(sample.finish_reason == FINISH_REASON_LENGTH for sample in samples)
    if rewards:
        found["reward_std"] = pstdev(rewards)
    if rewards and set(rewards) <= {0.0, 1.0}:
        found["all_correct"] = fmean(min(one) == 1.0 for one in by_group)
        found["all_wrong"] = fmean(max(one) == 0.0 for one in by_group)
    return found


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
