"""The last word on a run: summary.json in its folder."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import structlog

from services.coordinator.records import idle_tasks
from services.coordinator.records.best import best_version
from services.coordinator.records.run import Run
from syncline import durable, published
from syncline.errors import NotFound

log = structlog.get_logger()


def summary_path(run: Run) -> Path:
    return run.folder / "summary.json"


def model_folder(run: Run) -> str | None:
    """Path or URL of the newest published weights, an ordinary Hugging Face folder; None before there are any."""
    newest = run.record.published[-1:]
    return run.storage.place_of(published.name_of(newest[0])) if newest else None


def rollouts_of(run: Run) -> dict[str, Any]:
    """Where the training rollouts come from: a file, or (`from` is null) the generators."""
    origin = run.record.rollouts
    if origin is None:
        return {"from": None}
    return {"from": origin.path, "sha256": origin.sha256, "groups": origin.groups}


def checkpoint_place(run: Run, which: str) -> str:
    """Path or URL of a published checkpoint that is still there: `final`, `best` (see RunSpec.best), or `v<version>`.

    Raises NotFound, saying what there is: a run that goes on has no final or best version yet, and deletes what is the
    newest one now.
    """
    kept = published.versions(run.storage)
    if which in ("final", "best") and not run.state.terminal:
        there = ", ".join(f"v{version}" for version in kept) or "no version"
        raise NotFound(f"run {run.id} is {run.state.value}, so its {which} checkpoint is not known; it has {there}")
    if not kept:
        raise NotFound(f"run {run.id} has no published checkpoint")
    if which == "final":
        version = kept[-1]
    elif which == "best":
        best = best_version(run)
        if best is None or best["version"] not in kept:
            raise NotFound(f"run {run.id} has no evaluated checkpoint on storage")
        version = best["version"]
    else:
        version = int(which.removeprefix("v")) if which.removeprefix("v").isdecimal() else -1
        if version not in kept:
            raise NotFound(f"run {run.id} has no checkpoint {which!r}; there are: {', '.join(f'v{v}' for v in kept)}")
    return run.storage.place_of(published.name_of(version))


def write_summary(run: Run) -> None:
    """A run has ended with or without its summary: a disk that refuses is for the log."""
    try:
        durable.write_text(summary_path(run), json.dumps(summarize(run), indent=1) + "\n")
    except OSError as error:
        log.error("summary_not_written", run_id=run.id, error=str(error))


def summarize(run: Run) -> dict[str, Any]:
    """State, steps, evaluation before and after, seconds, versions, staleness, and what became of every group.

    `updates` counts the steps that changed the weights.
    """
    record, steps = run.record, run.series["steps"]
    dropped: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    for row in steps:
        dropped.update(row["dropped"])
        refused.update(row["refused"])
    staleness = [row["staleness"] for row in steps]
    return {
        "id": run.id,
        "name": run.spec.name,
        "state": record.state,
        "reason": record.reason,
        "steps": record.step,
        "updates": idle_tasks.updates(steps),
        "evaluation": {"before": _evaluations(run, first=True), "after": _evaluations(run, first=False)},
        "best": best_version(run),
        "wall_seconds": (record.finished_at or record.created_at) - (record.started_at or record.created_at),
        "phase_seconds": record.phase_seconds,
        "rollouts": rollouts_of(run),
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
        "padding_waste": _mean(row["metrics"].get("padding_waste") for row in steps),
        "mismatch_kl": mismatch_by_version(steps),
        "skipped_prompts": record.skipped_prompts,
        "attempts": record.attempts,
        "tokens": sum(row["tokens"] for row in steps),
        "model_folder": model_folder(run),
        "warnings": record.warnings,
    }


def mismatch_by_version(steps: Iterable[Mapping[str, Any]]) -> dict[int, float | None]:
    """version -> mean `mismatch_kl` of the steps on its rollouts: learner against generator on its own samples."""
    found: dict[int, list[float | None]] = {}
    for row in steps:
        found.setdefault(row["version"], []).append(row["metrics"].get("mismatch_kl"))
    return {version: _mean(values) for version, values in sorted(found.items())}


def _evaluations(run: Run, *, first: bool) -> dict[str, dict[str, Any]]:
    """The row of each set at the first, or the newest, version it was evaluated at."""
    rows = sorted(run.series["evaluations"], key=lambda row: row["version"], reverse=first)
    return {row["name"]: row for row in rows}


def _mean(values: Iterable[float | None]) -> float | None:
    """Over the steps that have the value; None where none has."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None
