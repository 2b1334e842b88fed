"""Rows of evaluations for the tests of the command line."""

from __future__ import annotations

from typing import Any


def evaluation_row(name: str, version: int, mean: float | None, **changes: Any) -> dict[str, Any]:
    """A row as GET /v1/runs/ID/evaluations answers it, of a set of right-or-wrong answers."""
    score = None if mean is None else {"mean": mean, "low": mean - 0.05, "high": mean + 0.05}
    return {
        "name": name,
        "version": version,
        "measure": "accuracy",
        "score": score,
        "pass_at": {} if mean is None else {"1": mean},
        "win_rate": None,
        "win_rate_length_controlled": None,
        "length_mean": None if mean is None else 3.5,
        **changes,
    }
