"""The end of a run: the report for people, and the picture."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from services.cli import curve, report
from services.cli.outcome import Outcome
from tests.unit.cli.evaluation_rows import evaluation_row

SPEC = {"algorithm": {"name": "dpo"}, "sync": {"period": 5}, "generation": {"temperature": 1.0}}


def steps(count: int, *, period: int) -> list[dict[str, Any]]:
    return [
        {"step": t, "version": t // period * period, "staleness": t % period, "reward_mean": t / count}
        for t in range(count)
    ]


EVALUATIONS = [
    evaluation_row("add", 20, 0.8),
    evaluation_row("add", 0, 0.5),
    evaluation_row("other", 0, None),
]


def reported(*, before: list[dict[str, Any]], after: list[dict[str, Any]], path: str, width: int = 80) -> str:
    outcome = Outcome(
        run={"id": "tiny-1", "model_folder": "/models/tiny"},
        summary={
            "state": "succeeded",
            "steps": 20,
            "updates": 19,
            "wall_seconds": 61.0,
            "evaluation": {
                when: {row["name"]: row for row in rows} for when, rows in (("before", before), ("after", after))
            },
            "best": {"version": 15, "evaluation": "add", "metric": "score", "value": 0.825, "folder": "/runs/v000015"},
            "warnings": [{"path": "tasks.0.reward.endpoint", "problem": "it is down", "allowed": "one that is up"}],
            "groups": {"trained": 640, "dropped": {"all equal": 12}},
            "staleness": {"min": 0, "mean": 2.0, "max": 4},
            "padding_waste": 0.062,
        },
        summary_path=Path(path),
        picture=Path("learning-curve.png"),
        next_command="curl http://127.0.0.1:8080/v1/runs/tiny-1/steps",
    )
    out = io.StringIO()
    report.print_report(Console(file=out, width=width), outcome)
    return out.getvalue()


def test_the_last_line_is_the_path_of_the_summary(tmp_path: Path) -> None:
    long_path = str(tmp_path / ("deep-" * 30) / "summary.json")
    before = [evaluation_row("add", 0, 0.5), evaluation_row("other", 0, None)]
    after = [evaluation_row("add", 20, 0.8), evaluation_row("other", 20, None)]
    text = reported(before=before, after=after, path=long_path)
    assert text.splitlines()[-1] == long_path
    for part in (
        "50.0%",
        "80.0%",
        "+30.0 points",
        "20 in 1m01s; 19 updates changed the weights",
        "640 trained; dropped: 12 all equal",
        "/models/tiny",
        "6.2% of",
    ):
        assert part in text
    assert "v15, by its score 0.825 on add: /runs/v000015" in text
    assert "tasks.0.reward.endpoint: it is down; wanted: one that is up" in text
    assert "at equal length" not in text, "nothing was judged"


def test_the_table_has_intervals_pass_at_k_and_win_rates_at_equal_length() -> None:
    judged = {
        "measure": "win_rate",
        "pass_at": {},
        "win_rate_length_controlled": {"mean": 0.6, "low": 0.5, "high": 0.7},
    }
    graded = {"measure": "score", "pass_at": {}}
    after = [
        evaluation_row("add", 20, 0.8, pass_at={"1": 0.8, "4": 0.95}),
        evaluation_row("chat", 20, 0.75, **judged),
        evaluation_row("graded", 20, -1.25, **graded),
    ]
    before = [
        evaluation_row("add", 0, 0.5, pass_at={"1": 0.5, "4": 0.7}),
        evaluation_row("chat", 0, 0.5, **judged),
        evaluation_row("graded", 0, -1.5, **graded),
    ]
    lines = reported(before=before, after=after, path="summary.json", width=200).splitlines()
    (add,) = [line for line in lines if "accuracy" in line]
    (chat,) = [line for line in lines if "win rate" in line]
    (graded_line,) = [line for line in lines if "graded" in line]
    for part in ("50.0% [45.0, 55.0]", "80.0% [75.0, 85.0]", "+30.0 points", "pass@4 95.0%", "3.5 -> 3.5"):
        assert part in add
    assert "60.0% [50.0, 70.0]" in chat
    for part in ("-1.500 [-1.550, -1.450]", "-1.250 [-1.300, -1.200]", "+0.250"):
        assert part in graded_line


@pytest.mark.parametrize(("count", "period"), [(1, 5), (20, 5), (200, 1)])
def test_the_curve_is_a_picture(tmp_path: Path, count: int, period: int) -> None:
    path = tmp_path / "curve.png"
    run = {"name": "tiny", "spec": SPEC | {"sync": {"period": period}}}
    curve.draw(path, run=run, steps=steps(count, period=period), evaluations=EVALUATIONS)
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.width > 1000


def test_a_mixed_run_has_an_axis_for_each_scale_and_task(tmp_path: Path) -> None:
    tasks = [{"task": "math", "reward_mean": 0.5}, {"task": "chat", "reward_mean": None}]
    rows = [row | {"tasks": tasks} for row in steps(20, period=5)]
    scored = [
        *EVALUATIONS,
        evaluation_row("chat", 0, -3.0, measure="score"),
        evaluation_row("chat", 20, -1.0, measure="score"),
    ]
    run = {"name": "mixed", "spec": SPEC}
    curve.draw(tmp_path / "plain.png", run=run, steps=steps(20, period=5), evaluations=EVALUATIONS)
    curve.draw(tmp_path / "mixed.png", run=run, steps=rows, evaluations=scored)
    with Image.open(tmp_path / "plain.png") as plain, Image.open(tmp_path / "mixed.png") as mixed:
        assert mixed.height > plain.height


@pytest.mark.parametrize("width", range(30, 110, 5))
def test_no_width_cuts_a_number_off(width: int) -> None:
    rows = {
        "before": [evaluation_row("add", 0, 0.5, temperature=0.0)],
        "after": [evaluation_row("add", 20, 0.8, temperature=0.0)],
    }
    text = " ".join(reported(**rows, path="summary.json", width=width).split())
    for part in ("(greedy)", "50.0%", "[45.0,", "55.0]", "80.0%", "[75.0,", "85.0]", "+30.0", "points"):
        assert part in text
    assert "\N{HORIZONTAL ELLIPSIS}" not in text


def test_an_evaluation_says_how_its_answers_were_sampled() -> None:
    rows = {when: [evaluation_row("add", 0, 0.5, temperature=0.6)] for when in ("before", "after")}
    assert "accuracy (temperature 0.6)" in reported(**rows, path="summary.json", width=120)


def test_an_offline_run_without_evaluations_has_a_curve_too(tmp_path: Path) -> None:
    run = {"name": "tiny", "spec": SPEC | {"sync": {"period": "never"}}}
    curve.draw(tmp_path / "curve.png", run=run, steps=steps(8, period=100), evaluations=[])
    assert (tmp_path / "curve.png").stat().st_size > 10_000


def test_smoothing_keeps_the_length_and_the_mean_of_neighbours() -> None:
    assert curve.smooth([0.0, 3.0, 0.0, 3.0, 0.0], span=3) == [1.5, 1.0, 2.0, 1.0, 1.5]
    assert curve.smooth([1.0], span=9) == [1.0]
