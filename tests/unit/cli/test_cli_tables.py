"""What `list` and `status` print."""

from __future__ import annotations

from typing import Any

import pytest

from services.cli import tables

RUN: dict[str, Any] = {
    "id": "quickstart-a1b2c3",
    "name": "quickstart",
    "state": "stalled",
    "reason": "no generator answers",
    "created_at": "2026-01-02T03:04:05.678+00:00",
    "progress": {"step": 23, "steps": 400, "eta_seconds": 61.0},
    "version": 20,
    "staleness": None,
    "folder": "/" + "deep/" * 40 + "run",
    "model_folder": None,
    "best": {"version": 10, "evaluation": "held-out", "metric": "score", "value": 0.625, "folder": "/runs/v000010"},
    "warnings": [{"path": "tasks.0.reward.endpoint", "problem": "it is down", "allowed": "one that is up"}],
}


def test_runs_are_columns(capsys: pytest.CaptureFixture[str]) -> None:
    tables.print_runs([RUN, RUN | {"id": "b", "state": "succeeded"}])
    header, first, second = capsys.readouterr().out.splitlines()
    assert header.index("state") == first.index("stalled") == second.index("succeeded")
    assert "23/400  v20      -          2026-01-02 03:04:05" in first


def test_no_runs_are_a_header(capsys: pytest.CaptureFixture[str]) -> None:
    tables.print_runs([])
    assert capsys.readouterr().out.startswith("run  name")


def test_a_run_is_shown_with_its_generators_and_nothing_wrapped(capsys: pytest.CaptureFixture[str]) -> None:
    fleet = {
        "inference": [
            {"id": "inference-0", "phase": "serving", "version": 20, "trouble": ""},
            {"id": "inference-1", "phase": "failed", "version": None, "trouble": "digest mismatch"},
        ]
    }
    metrics = {"margin": 0.25, "entropy": 1.5, "pair_accuracy": 0.5}
    task = {"task": "math", "pairs": 12, "reward_mean": 0.625, "length_mean": 31.0, "metrics": metrics}
    task["verdicts"], task["causes"] = {"scored": 62, "timeout": 2}, {"timeout: more than 1 s of CPU time": 2}
    tables.print_run(RUN | {"tasks": [task]}, fleet)
    lines = capsys.readouterr().out.splitlines()
    assert "state         stalled: no generator answers" in lines
    assert "serving       v20 for training; staleness of the newest step -" in lines
    assert "step          23/400, 1m01s to go" in lines
    assert "task math     12 pairs, reward 0.625, length 31, margin 0.25, entropy 1.5" in lines
    assert "verdicts      scored 96.9%, timeout 3.1% (more than 1 s of CPU time 2)" in lines
    assert "inference-0   serving, v20" in lines
    assert "inference-1   failed, no version yet: digest mismatch" in lines
    assert f"folder        {RUN['folder']}" in lines
    assert "best          v10, score 0.625 on held-out" in lines
    assert "best model    /runs/v000010" in lines
    assert "warning       tasks.0.reward.endpoint: it is down; wanted: one that is up" in lines


def test_a_generator_with_the_long_name_of_a_pod_has_its_column(capsys: pytest.CaptureFixture[str]) -> None:
    pod = {"id": "syncline-inference-0", "phase": "serving", "version": 20, "trouble": ""}
    tables.print_run(RUN | {"tasks": []}, {"inference": [pod]})
    lines = capsys.readouterr().out.splitlines()
    assert "syncline-inference-0  serving, v20" in lines
    assert "state                 stalled: no generator answers" in lines
