"""A run's numbers on their way to a tracker: rows in, flat names and numbers out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from services.cli.client import Event
from services.cli.trackers.tracker import Tracker

_OF_A_STEP = (
    "version",
    "staleness",
    "sync_period",
    "reward_mean",
    "pairs",
    "groups",
    "tokens",
    "length_mean",
    "wait_seconds",
    "update_seconds",
)
_OF_A_TASK = ("reward_mean", "pairs", "groups", "samples", "rewarded", "tokens", "length_mean")
_OF_AN_EVALUATION = ("length_mean", "length_normalized", "seconds")
_WITH_INTERVAL = ("score", "win_rate", "win_rate_length_controlled")


def track(events: Iterable[Event], tracker: Tracker) -> int:
    """Hand every step and evaluation to the tracker; returns how many there were."""
    last = count = 0
    for event in events:
        if event.type == "step":
            updates = int(event.data["step"]) + 1
            if updates <= last:
                tracker.rewind(updates)
            tracker.log(updates, of_step(event.data))
            last = updates
        elif event.type == "evaluation":
            tracker.log(int(event.data["version"]), of_evaluation(event.data))
        else:
            continue
        count += 1
    return count


def of_step(row: Mapping[str, Any]) -> dict[str, float]:
    """train/reward_mean, train/loss, ..., and the same of each task as tasks/NAME/..."""
    numbers = _named("train", row, _OF_A_STEP)
    for task in row["tasks"]:
        numbers |= _named(f"tasks/{task['task']}", task, _OF_A_TASK)
    return numbers


def of_evaluation(row: Mapping[str, Any]) -> dict[str, float]:
    """evaluation/NAME/score, its interval, pass@k, length."""
    place = f"evaluation/{row['name']}"
    numbers = _plain(place, row, _OF_AN_EVALUATION)
    for name in _WITH_INTERVAL:
        if interval := row.get(name):
            numbers |= {f"{place}/{name}": interval["mean"]}
            numbers |= {f"{place}/{name}_{end}": interval[end] for end in ("low", "high")}
    return numbers | {f"{place}/pass_at_{k}": float(value) for k, value in (row.get("pass_at") or {}).items()}


def _named(place: str, row: Mapping[str, Any], fields: Iterable[str]) -> dict[str, float]:
    """These fields of a step or a task, its metrics, and its counts by cause."""
    counts = {
        f"{place}/{kind}/{cause}": float(count)
        for kind in ("dropped", "refused", "verdicts")
        for cause, count in row.get(kind, {}).items()
    }
    metrics = {f"{place}/{name}": float(value) for name, value in row["metrics"].items() if value is not None}
    return _plain(place, row, fields) | metrics | counts


def _plain(place: str, row: Mapping[str, Any], fields: Iterable[str]) -> dict[str, float]:
    """What is a number: not the period `never`, nor the mean of nothing."""
    return {f"{place}/{name}": float(row[name]) for name in fields if isinstance(row.get(name), int | float)}
