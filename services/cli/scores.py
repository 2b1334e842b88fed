"""Rows of evaluations as people read them: shares in per cent, other scores as they are. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Row = Mapping[str, Any]


def number(value: float | None, row: Row) -> str:
    """82.5% where the row's measure is a share, 0.825 where it is a graded score."""
    if value is None:
        return "-"
    return f"{value:.1%}" if is_share(row) else f"{value:.3f}"


def score(row: Row) -> str:
    """The mean with its 95 % interval: 82.5% [78.9, 86.0]."""
    return estimate(row["score"], row)


def estimate(found: Mapping[str, float | None] | None, row: Row) -> str:
    """A mean with its 95 % interval, where it has one."""
    if found is None:
        return "-"
    low, high = found["low"], found["high"]
    if low is None or high is None:
        return number(found["mean"], row)
    bounds = f"{100 * low:.1f}, {100 * high:.1f}" if is_share(row) else f"{low:.3f}, {high:.3f}"
    return f"{number(found['mean'], row)} [{bounds}]"


def change(before: Row | None, after: Row) -> float | None:
    """Difference of the means; None where one of them is not known."""
    if before is None or before["score"] is None or after["score"] is None:
        return None
    return float(after["score"]["mean"] - before["score"]["mean"])


def difference(value: float, row: Row) -> str:
    return f"{100 * value:+.1f} points" if is_share(row) else f"{value:+.3f}"


def measure(row: Row) -> str:
    """accuracy, win rate or score, and how the answers were sampled: accuracy (greedy), score (temperature 0.6)."""
    name, temperature = str(row["measure"]).replace("_", " "), row.get("temperature")
    if temperature is None:  # of a run that was recorded before it was told
        return name
    return f"{name} (greedy)" if temperature == 0 else f"{name} (temperature {temperature:g})"


def pass_at(row: Row) -> str:
    """pass@k of the largest k: pass@8 91.0%. Empty where one sample, or a graded score, has none to tell."""
    sizes = sorted(row["pass_at"], key=int)
    return f"pass@{sizes[-1]} {row['pass_at'][sizes[-1]]:.1%}" if len(sizes) > 1 else ""


def is_share(row: Row) -> bool:
    return row["measure"] in ("accuracy", "win_rate")
