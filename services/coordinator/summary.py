"""The last word on a run: summary.json in its folder."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

import structlog

from services.coordinator.store import Run
from syncline import checkpoints
from syncline.errors import NotFound

log = structlog.get_logger()


def summary_path(run: Run) -> Path:
    return run.folder / "summary.json"


def model_folder(run: Run) -> Path | None:
    """The newest published weights, an ordinary Hugging Face folder; None before there are any."""
    for version in reversed(run.record.published):
        folder = checkpoints.version_folder(run.folder, version)
        if folder.is_dir():
            return folder.resolve()
    return None


def checkpoint_folder(run: Run, which: str) -> Path:
    """A published checkpoint that is still on storage: `final`, `best` by the first evaluation set, or `v<version>`.

    Raises NotFound, saying what there is.
    """
    kept = checkpoints.published(run.folder)
    if not kept:
        raise NotFound(f"run {run.id} has no published checkpoint")
    if which == "final":
        version = kept[-1]
    elif which == "best":
        scored = [row for row in run.series["evaluations"] if row["version"] in kept and row["accuracy"] is not None]
        if not scored:
            raise NotFound(f"run {run.id} has no evaluated checkpoint on storage")
        first = [row for row in scored if row["name"] == run.spec.evaluation[0].name] or scored
        version = max(first, key=lambda row: (row["accuracy"], row["version"]))["version"]
    else:
        version = int(which.removeprefix("v")) if which.removeprefix("v").isdigit() else -1
        if version not in kept:
            raise NotFound(f"run {run.id} has no checkpoint {which!r}; there are: {', '.join(f'v{v}' for v in kept)}")
    return checkpoints.version_folder(run.folder, version).resolve()


def write_summary(run: Run) -> None:
    """A run has ended with or without its summary: a disk that refuses is for the log."""
    try:
        checkpoints.write_text(summary_path(run), json.dumps(summarize(run), indent=1) + "\n")
    except OSError as error:
        log.error("summary_not_written", run_id=run.id, error=str(error))


def summarize(run: Run) -> dict[str, Any]:
    """State, steps, evaluation before and after, seconds, versions, staleness, and what became of every group."""
    record, steps = run.record, run.series["steps"]
    dropped: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    for row in steps:
        dropped.update(row["dropped"])
        refused.update(row["refused"])
    staleness = [row["staleness"] for row in steps]
    model = model_folder(run)
    return {
        "id": run.id,
        "name": run.spec.name,
        "state": record.state,
        "reason": record.reason,
        "steps": record.step,
        "evaluation": {"before": _accuracies(run, first=True), "after": _accuracies(run, first=False)},
        "wall_seconds": (record.finished_at or record.created_at) - (record.started_at or record.created_at),
        "phase_seconds": record.phase_seconds,
        "versions": sorted({row["version"] for row in steps}),
        "syncs": record.syncs,
        "staleness": {
            "min": min(staleness, default=None),
            "mean": statistics.fmean(staleness) if staleness else None,
            "max": max(staleness, default=None),
        },
        "groups": {
            "trained": sum(len(row["trained"]) for row in steps),
            "dropped": dict(dropped),
            "refused": dict(refused),
        },
        "skipped_prompts": record.skipped_prompts,
        "attempts": record.attempts,
        "tokens": sum(row["tokens"] for row in steps),
        "model_folder": str(model) if model else None,
    }


def _accuracies(run: Run, *, first: bool) -> dict[str, float | None]:
    """Accuracy of each set at the first, or the newest, version it was evaluated at."""
    found: dict[str, float | None] = {}
    for row in sorted(run.series["evaluations"], key=lambda row: row["version"], reverse=first):
        found[row["name"]] = row["accuracy"]
    return found
