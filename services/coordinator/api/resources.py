"""What the API answers with."""

from __future__ import annotations

import base64
import binascii
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from services.coordinator.records.best import best_version
from services.coordinator.records.run import Run
from services.coordinator.records.summary import mismatch_by_version, model_folder, rollouts_of, summary_path
from syncline.algo.schedule import whole_windows
from syncline.errors import FieldProblem, InvalidSpec

_PACE_STEPS = 20
_RECENT = 100
"""Steps whose versions the resource tells the mismatch of; summary.json has them all."""


def run_resource(run: Run) -> dict[str, Any]:
    """A run as GET /v1/runs/{id} shows it."""
    record = run.record
    last = run.series["steps"][-1] if run.series["steps"] else None
    here = f"/v1/runs/{run.id}"
    return {
        "id": run.id,
        "name": run.spec.name,
        "state": record.state,
        "reason": run.reason,
        "created_at": _time(record.created_at),
        "started_at": _time(record.started_at),
        "finished_at": _time(record.finished_at),
        "progress": {"step": record.step, "steps": run.spec.steps, "eta_seconds": eta_seconds(run)},
        "version": record.version,
        "staleness": last["staleness"] if last else None,
        "tasks": last["tasks"] if last else [],
        "mismatch_kl": mismatch_by_version(run.series["steps"][-_RECENT:]),
        "rollouts": rollouts_of(run),
        "skipped_prompts": record.skipped_prompts,
        "attempts": record.attempts,
        "best": best_version(run),
        "warnings": record.warnings,
        "spec": run.spec.model_dump(mode="json"),
        "folder": str(run.folder.resolve()),
        "model_folder": model_folder(run),
        "summary_path": str(summary_path(run).resolve()),
        "links": {
            "self": here,
            "steps": f"{here}/steps",
            "evaluations": f"{here}/evaluations",
            "samples": f"{here}/samples",
            "checkpoints": f"{here}/checkpoints",
            "rollouts": f"{here}/rollouts",
            "events": f"{here}/events",
            "cancel": f"{here}:cancel",
            "pause": f"{here}:pause",
            "resume": f"{here}:resume",
        },
    }


def eta_seconds(run: Run) -> float | None:
    """Seconds to the last step, from the pace of the last windows; None before there is a pace."""
    if run.state.terminal or len(run.series["steps"]) < 2:
        return None
    span = whole_windows(run.series["steps"][-1]["sync_period"], at_least=_PACE_STEPS)
    times = [row["finished_at"] for row in run.series["steps"][-span - 1 :]]
    pace = statistics.fmean(later - earlier for earlier, later in pairwise(times))
    return pace * (run.spec.steps - run.record.step)


def page(rows: Sequence[Any], *, size: int, token: str) -> tuple[Sequence[Any], str]:
    """One page of rows and the token of the next, empty at the end. Raises InvalidSpec for a token that is not ours."""
    start = page_start(token)
    stop = start + size
    return rows[start:stop], page_token_of(stop) if stop < len(rows) else ""


def page_start(token: str) -> int:
    """First row of the page that a token names. Raises InvalidSpec for a token that is not ours."""
    if not token:
        return 0
    try:
        start = int(base64.urlsafe_b64decode(token.encode()).decode())
    except (ValueError, binascii.Error):
        start = -1
    if start < 0:
        raise InvalidSpec([FieldProblem("page_token", "not a page token", "next_page_token of the page before")])
    return start


def page_token_of(start: int) -> str:
    """The token of the page that begins with row `start`."""
    return base64.urlsafe_b64encode(str(start).encode()).decode()


def _time(unix: float | None) -> str | None:
    return None if unix is None else datetime.fromtimestamp(unix, UTC).isoformat()
