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

SPEC = {"algorithm": {"name": "dpo"}, "sync": {"period": 5}}


def steps(count: int, *, period: int) -> list[dict[str, Any]]:
    return [
        {"step": t, "version": t // period * period, "staleness": t % period, "reward_mean": t / count}
        for t in range(count)
    ]


EVALUATIONS = [
    {"name": "add", "version": 20, "accuracy": 0.8},
    {"name": "add", "version": 0, "accuracy": 0.5},
    {"name": "other", "version": 0, "accuracy": None},
]


def test_the_last_line_is_the_path_of_the_summary(tmp_path: Path) -> None:
    long_path = str(tmp_path / ("deep-" * 30) / "summary.json")
    outcome = Outcome(
        run={"id": "tiny-1", "summary_path": long_path, "model_folder": "/models/tiny"},
        summary={
            "state": "succeeded",
            "steps": 20,
            "wall_seconds": 61.0,
            "evaluation": {"before": {"add": 0.5, "other": None}, "after": {"add": 0.8, "other": None}},
            "groups": {"trained": 640, "dropped": {"all equal": 12}},
            "staleness": {"min": 0, "mean": 2.0, "max": 4},
            "padding_waste": 0.062,
        },
        picture=tmp_path / "learning-curve.png",
        next_command="curl http://127.0.0.1:8080/v1/runs/tiny-1/steps",
    )
    out = io.StringIO()
    report.print_report(Console(file=out, width=80), outcome)
    text = out.getvalue()
    assert text.splitlines()[-1] == long_path
    for part in (
        "50.0%",
        "80.0%",
        "+30.0 points",
        "640 trained; dropped: 12 all equal",
        "/models/tiny",
        "1m01s",
        "6.2% of",
    ):
        assert part in text


@pytest.mark.parametrize(("count", "period"), [(1, 5), (20, 5), (200, 1)])
def test_the_curve_is_a_picture(tmp_path: Path, count: int, period: int) -> None:
    path = tmp_path / "curve.png"
    run = {"name": "tiny", "spec": SPEC | {"sync": {"period": period}}}
    curve.draw(path, run=run, steps=steps(count, period=period), evaluations=EVALUATIONS)
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.width > 1000


def test_an_offline_run_without_evaluations_has_a_curve_too(tmp_path: Path) -> None:
    run = {"name": "tiny", "spec": SPEC | {"sync": {"period": "never"}}}
    curve.draw(tmp_path / "curve.png", run=run, steps=steps(8, period=100), evaluations=[])
    assert (tmp_path / "curve.png").stat().st_size > 10_000


def test_smoothing_keeps_the_length_and_the_mean_of_neighbours() -> None:
    assert curve.smooth([0.0, 3.0, 0.0, 3.0, 0.0], span=3) == [1.5, 1.0, 2.0, 1.0, 1.5]
    assert curve.smooth([1.0], span=9) == [1.0]
