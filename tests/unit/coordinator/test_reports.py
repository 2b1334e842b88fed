"""A step's report on its way to people: rows, Prometheus, and the summary."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client import generate_latest

from services.coordinator import metrics
from services.coordinator.reports import step_row
from services.coordinator.store import RunStore
from services.coordinator.summary import summarize
from syncline.v1.learner_service_pb2 import StepReport, TaskReport
from tests.integration.learner_world import spec_of


def _report(step: int, version: int, *, mismatch: float, **task: float) -> StepReport:
    return StepReport(
        step=step,
        version=version,
        staleness=step - version,
        tasks=[
            TaskReport(task="math", groups=2, reward_mean=0.5, pairs=2, metrics={"entropy": 0.25}),
            TaskReport(task="chat", groups=1, reward_mean=2.0, pairs=1, metrics={"entropy": 1.5, **task}),
        ],
        metrics={"loss": 0.69, "mismatch_kl": mismatch, "padding_waste": 0.125},
    )


def test_the_numbers_of_a_task_stay_with_the_task() -> None:
    row = step_row(_report(3, 2, mismatch=0.01, raw_reward=3.0), sync_period=2)
    assert [task["metrics"] for task in row["tasks"]] == [{"entropy": 0.25}, {"entropy": 1.5, "raw_reward": 3.0}]
    assert [(task["task"], task["staleness"]) for task in row["tasks"]] == [("math", 1), ("chat", 1)]
    assert (row["staleness"], row["sync_period"]) == (1, 2)
    assert row["metrics"]["padding_waste"] == 0.125
    assert (row["reward_mean"], row["pairs"]) == (pytest.approx(1.0), 3)


def test_prometheus_has_the_numbers_of_the_last_step_by_task_and_no_others() -> None:
    metrics.observe_step(step_row(_report(3, 2, mismatch=0.01, raw_reward=3.0), sync_period=2))
    metrics.observe_step(step_row(_report(4, 4, mismatch=0.02), sync_period=2))
    text = generate_latest().decode()
    for line in (
        'syncline_step_metric{name="entropy",task="math"} 0.25',
        'syncline_step_metric{name="entropy",task="chat"} 1.5',
        'syncline_step_metric{name="mismatch_kl",task=""} 0.02',
        'syncline_step_metric{name="padding_waste",task=""} 0.125',
        'syncline_reward_mean{task="chat"} 2.0',
    ):
        assert line in text
    assert "raw_reward" not in text


def test_the_summary_tells_the_mismatch_of_each_version_and_what_padding_cost(tmp_path: Path) -> None:
    run = RunStore(tmp_path).create("run-1", spec_of(Path("unused")))
    assert summarize(run)["padding_waste"] is None
    for step, version, mismatch in ((0, 0, 0.01), (1, 0, 0.03), (2, 2, 0.05)):
        run.append("steps", step_row(_report(step, version, mismatch=mismatch), sync_period=2))
    summary = summarize(run)
    assert summary["mismatch_kl"] == {0: pytest.approx(0.02), 2: pytest.approx(0.05)}
    assert summary["padding_waste"] == pytest.approx(0.125)
