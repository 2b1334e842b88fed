"""What followers see: numbers from events, and the lines that a pipe gets."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from services.cli.client import Event
from services.cli.display import LivePanel, PlainLines, make_display
from services.cli.progress import Progress, duration, numbers, sparkline
from tests.unit.cli.evaluation_rows import evaluation_row

RUN: dict[str, Any] = {
    "id": "tiny-1",
    "name": "tiny",
    "state": "pending",
    "progress": {"step": 0, "steps": 40, "eta_seconds": None},
}


def step(number: int, **changes: Any) -> Event:
    row = {"step": number, "version": number // 10 * 10, "staleness": number % 10, "reward_mean": 0.5, "pairs": 12}
    return Event("", "step", row | {"tokens": 1000, "finished_at": 100.0 + 2 * number} | changes)


def state(name: str, reason: str = "") -> Event:
    return Event("", "state", {"state": name, "reason": reason})


def evaluation(version: int, accuracy: float) -> Event:
    return Event("", "evaluation", evaluation_row("held-out", version, accuracy))


def after(*events: Event) -> Progress:
    progress = Progress.of(RUN)
    for event in events:
        progress.apply(event)
    return progress


def test_pace_and_eta_come_from_the_last_steps() -> None:
    progress = after(state("running"), *[step(number) for number in range(10)])
    assert progress.tokens_per_second == pytest.approx(500.0)
    assert progress.eta_s == pytest.approx(60.0)
    assert dict(numbers(progress)) == {
        "reward": "0.500",
        "pairs": "12",
        "staleness": "9",
        "version": "0",
        "tokens/s": "500",
        "eta": "1m00s",
    }


def test_padding_is_shown_where_the_learner_tells_it() -> None:
    assert dict(numbers(after(step(0, metrics={"padding_waste": 0.123}))))["padding"] == "12%"


def test_one_step_has_no_pace() -> None:
    progress = after(state("running"), step(0))
    assert progress.tokens_per_second is None
    assert progress.eta_s is None


def test_steps_that_a_later_attempt_repeats_are_not_counted_twice() -> None:
    progress = after(step(0), step(1), step(2), step(1, reward_mean=0.9))
    assert progress.step == 2
    assert progress.rewards == [0.5, 0.9]


def test_evaluations_are_kept_by_version() -> None:
    progress = after(evaluation(20, 0.7), evaluation(0, 0.4), evaluation(20, 0.8))
    rows = progress.evaluations["held-out"]
    assert [(row["version"], row["score"]["mean"]) for row in rows] == [(0, 0.4), (20, 0.8)]


def test_phases_say_what_is_waited_for() -> None:
    loaded = Event("", "fleet", {"event": "loaded", "generator": "inference-0", "version": 0})
    assert "turn" in after().phase
    assert "seed model" in after(state("starting")).phase
    assert "engines" in after(state("running")).phase
    assert "first rollouts" in after(state("running"), loaded).phase
    assert after(state("running"), loaded, step(0)).phase == "training"
    assert "last evaluation" in after(state("running"), loaded, step(39)).phase
    assert after(state("stalled", "no generator answers")).phase == "stalled: no generator answers"
    assert after(state("succeeded")).over


def test_unknown_events_are_left_out() -> None:
    assert after(Event("", "weather", {"rain": True}), Event("", "snapshot", {"state": "running"})).state == "pending"


def test_a_sparkline_is_the_course_in_few_characters() -> None:
    assert sparkline([], width=4) == ""
    assert sparkline([0.0, 1.0], width=4) == "▁█"
    assert len(sparkline([index / 100 for index in range(100)], width=8)) == 8
    assert sparkline([-3.0, 5.0], width=2) == "▁█"


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0s"), (59, "59s"), (187, "3m07s"), (3720, "1h02m")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_without_a_terminal_there_is_a_line_every_few_steps() -> None:
    out = io.StringIO()
    display = make_display(Console(file=out, width=60))
    assert isinstance(display, PlainLines)
    progress = Progress.of(RUN)
    with display:
        display.wait("starting the local stack")
        display.follow(progress)
        events = [state("starting"), state("running"), evaluation(0, 0.4), *[step(n) for n in range(40)]]
        problem = {"path": "tasks.0.reward.endpoint", "problem": "it is down", "allowed": "one that is up"}
        best = Event("", "best", {"version": 40, "evaluation": "held-out", "metric": "score", "value": 0.8})
        period = Event("", "period", {"from_step": 20, "period": 5})
        for event in [Event("", "warning", problem), *events, period, evaluation(40, 0.8), best, state("succeeded")]:
            progress.apply(event)
            display.show(event)
    lines = out.getvalue().splitlines()
    assert lines[:2] == ["starting the local stack", "run tiny-1 (tiny, 40 steps)"]
    steps = [line for line in lines if line.startswith("step ")]
    assert len(steps) == 21  # the first, and every second of 40
    assert steps[-1].startswith("step 40/40  reward 0.500  pairs 12  staleness 9  version 30  tokens/s 500")
    assert "evaluation held-out at version 0: accuracy 40.0% [35.0, 45.0], length 3.5" in lines
    assert "evaluation held-out at version 40: accuracy 80.0% [75.0, 85.0], length 3.5" in lines
    assert "best so far: version 40" in lines
    assert "sync period 5 from step 20 on" in lines
    assert "warning: tasks.0.reward.endpoint: it is down; wanted: one that is up" in lines
    assert lines[-1] == "succeeded"


def test_on_a_terminal_there_is_one_panel_with_everything() -> None:
    out = io.StringIO()
    display = make_display(Console(file=out, force_terminal=True, width=100, color_system=None))
    assert isinstance(display, LivePanel)
    with display:
        display.wait("starting the local stack: waiting for learner")
        progress = after(state("running"), evaluation(0, 0.4), *[step(n) for n in range(12)], evaluation(10, 0.6))
        display.follow(progress)
    shown = out.getvalue()
    for text in ("tiny", "step 12/40", "30%", "▅▅▅ 0.500", "staleness 1", "version 10", "tokens/s 500", "eta 56s"):
        assert text in shown
    assert "evaluation held-out 40.0% [35.0, 45.0] (v0) -> 60.0% [55.0, 65.0] (v10)" in shown
