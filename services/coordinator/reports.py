"""The learner's reports as rows for people: plain dictionaries that JSON, SSE and the REST API share."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from services.coordinator.store import Run
from syncline.algo.schedule import Period
from syncline.v1.learner_service_pb2 import StepReport, TaskReport


def step_row(report: StepReport, *, sync_period: Period) -> dict[str, Any]:
    """One step: what trained, on whose rollouts, with which numbers. `sync_period` is that of its window."""
    tasks = [_task_row(task, staleness=report.staleness) for task in report.tasks]
    groups = sum(task["groups"] for task in tasks)
    dropped: Counter[str] = Counter()
    for task in tasks:
        dropped.update(task["dropped"])
    return {
        "step": report.step,
        "version": report.version,
        "staleness": report.staleness,
        "sync_period": sync_period,
        "reward_mean": _weighted(tasks, "reward_mean"),
        "pairs": sum(task["pairs"] for task in tasks),
        "groups": groups,
        "dropped": dict(dropped),
        "refused": dict(report.refused),
        "trained": list(report.trained),
        "tokens": report.tokens,
        "length_mean": _weighted(tasks, "length_mean"),
        "wait_seconds": report.wait_seconds,
        "update_seconds": report.update_seconds,
        "metrics": dict(report.metrics),
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


def add_phase(run: Run, phase: str, seconds: float) -> None:
    """Add to the seconds that the run spent in a phase."""
    run.record.phase_seconds[phase] = run.record.phase_seconds.get(phase, 0.0) + seconds


def _task_row(task: TaskReport, *, staleness: int) -> dict[str, Any]:
    return {
        "task": task.task,
        "staleness": staleness,
        "groups": task.groups,
        "dropped": dict(task.dropped),
        "reward_mean": task.reward_mean,
        "verdicts": dict(task.verdicts),
        "pairs": task.pairs,
        "length_mean": task.length_mean,
        "metrics": dict(task.metrics),
    }


def _weighted(tasks: list[dict[str, Any]], field: str) -> float:
    """Mean of a field over tasks, weighted by their groups."""
    groups = sum(task["groups"] for task in tasks)
    return sum(task[field] * task["groups"] for task in tasks) / groups if groups else 0.0
