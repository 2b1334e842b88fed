"""The learner's reports as rows for people: plain dictionaries that JSON, SSE and the REST API share."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from syncline.algo.schedule import Period
from syncline.v1.learner_service_pb2 import StepReport, TaskReport


def step_row(report: StepReport, *, sync_period: Period) -> dict[str, Any]:
    """One step: what trained, on whose rollouts, with which numbers. `sync_period` is that of its window."""
    tasks = [_task_row(task, staleness=report.staleness) for task in report.tasks]
    dropped: Counter[str] = Counter()
    for task in tasks:
        dropped.update(task["dropped"])
    return {
        "step": report.step,
        "version": report.version,
        "staleness": report.staleness,
        "sync_period": sync_period,
        "reward_mean": _mean(tasks, "reward_mean", weight="rewarded"),
        "pairs": sum(task["pairs"] for task in tasks),
        "groups": sum(task["groups"] for task in tasks),
        "dropped": dict(dropped),
        "refused": dict(report.refused),
        "trained": list(report.trained),
        "tokens": report.tokens,
        "length_mean": _mean(tasks, "length_mean", weight="samples"),
        "wait_seconds": report.wait_seconds,
        "update_seconds": report.update_seconds,
        "metrics": _numbers(report.metrics),
        "tasks": tasks,
        "finished_at": time.time(),
    }


def sample_rows(report: StepReport) -> list[dict[str, Any]]:
    """The completions that the learner picked for people to read."""
    return [
        {
            "step": report.step,
            "version": report.version,
            "prompt_index": sample.prompt_index,
            "task": sample.task,
            "prompt": sample.prompt,
            "completion": sample.completion,
            "answer": sample.answer,
            "reward": sample.reward,
            "verdict": sample.verdict,
            "role": sample.role,
            "generator": sample.generator,
        }
        for sample in report.samples
    ]


def _task_row(task: TaskReport, *, staleness: int) -> dict[str, Any]:
    return {
        "task": task.task,
        "staleness": staleness,
        "groups": task.groups,
        "dropped": dict(task.dropped),
        "samples": task.samples,
        "rewarded": task.rewarded,
        "reward_mean": task.reward_mean if task.HasField("reward_mean") else None,
        "verdicts": dict(task.verdicts),
        "causes": dict(task.causes),
        "pairs": task.pairs,
        "tokens": task.tokens,
        "length_mean": task.length_mean if task.HasField("length_mean") else None,
        "metrics": _numbers(task.metrics),
    }


def _numbers(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """JSON has no infinity and no NaN; what is neither measured nor finite is null."""
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}


def _mean(tasks: list[dict[str, Any]], field: str, *, weight: str) -> float | None:
    """Mean of a field over tasks by the samples that it was taken of; None when there is none."""
    total = sum(task[weight] for task in tasks)
    return sum(task[field] * task[weight] for task in tasks if task[weight]) / total if total else None
