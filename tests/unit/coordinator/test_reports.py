"""A step's report on its way to people: rows, Prometheus, and the summary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest

from services.cli import track
from services.coordinator import metrics
from services.coordinator.records.reports import step_row
from services.coordinator.records.store import RunStore
from services.coordinator.records.summary import summarize
from syncline.v1.learner_service_pb2 import StepReport, TaskReport
from tests.integration.learner_world import spec_of


def _task(name: str, *, groups: int, rewarded: int, **fields: Any) -> TaskReport:
    sizes = {"samples": 4 * groups, "tokens": 40 * groups, "length_mean": 10.0, "pairs": groups}
    return TaskReport(task=name, groups=groups, rewarded=rewarded, **sizes, **fields)


def _report(step: int, version: int, *, mismatch: float, **task: float) -> StepReport:
    return StepReport(
        step=step,
        version=version,
        staleness=step - version,
        tasks=[
            _task("math", groups=2, rewarded=8, reward_mean=0.5, metrics={"entropy": 0.25}),
            _task("chat", groups=1, rewarded=4, reward_mean=2.0, metrics={"entropy": 1.5, **task}),
        ],
        metrics={"loss": 0.69, "mismatch_kl": mismatch, "padding_waste": 0.125},
    )


def test_what_overflowed_is_null_so_that_every_reader_of_json_can_go_on(tmp_path: Path) -> None:
    row = step_row(_report(3, 2, mismatch=float("inf"), kl_reference=float("nan")), sync_period=2)
    assert (row["metrics"]["loss"], row["metrics"]["mismatch_kl"]) == (0.69, None)
    assert row["tasks"][1]["metrics"] == {"entropy": 1.5, "kl_reference": None}
    assert json.loads(json.dumps(row, allow_nan=False)) == row
    run = RunStore(tmp_path).create("r", spec_of(Path("unused")))
    run.append("steps", row)
    metrics.observe_step(row)
    assert track.of_step(row)["tasks/chat/entropy"] == 1.5
    assert summarize(run)["mismatch_kl"] == {2: None}


def test_the_numbers_of_a_task_stay_with_the_task() -> None:
    row = step_row(_report(3, 2, mismatch=0.01, raw_reward=3.0), sync_period=2)
    assert [task["metrics"] for task in row["tasks"]] == [{"entropy": 0.25}, {"entropy": 1.5, "raw_reward": 3.0}]
    assert [(task["task"], task["staleness"]) for task in row["tasks"]] == [("math", 1), ("chat", 1)]
    assert (row["staleness"], row["sync_period"]) == (1, 2)
    assert row["metrics"]["padding_waste"] == 0.125
    assert (row["reward_mean"], row["pairs"]) == (pytest.approx(1.0), 3)


def test_a_task_of_which_nothing_is_scored_has_no_reward_and_counts_in_no_mean() -> None:
    math = _task("math", groups=2, rewarded=6, reward_mean=0.5)
    chat = _task("chat", groups=2, rewarded=0, dropped={"unscored": 2})
    row = step_row(StepReport(step=0, tasks=[math, chat]), sync_period=1)
    assert (row["reward_mean"], row["length_mean"]) == (0.5, 10.0)
    assert [task["reward_mean"] for task in row["tasks"]] == [0.5, None]
    assert [(task["samples"], task["rewarded"], task["tokens"]) for task in row["tasks"]] == [(8, 6, 80), (8, 0, 80)]
    assert step_row(StepReport(step=0, tasks=[chat]), sync_period=1)["reward_mean"] is None
    metrics.observe_step(row)
    assert 'syncline_reward_mean{task="chat"}' not in generate_latest().decode()


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
