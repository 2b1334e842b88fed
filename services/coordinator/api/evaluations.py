"""Routes under /v1/runs/{id}/evaluations: what was found, and what was answered."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from itertools import islice
from typing import Any

from fastapi import APIRouter

from services.coordinator.api.resources import page, page_start, page_token_of
from services.coordinator.api.runs import PageSize, PageToken, TheRun
from services.coordinator.records import answers
from services.coordinator.records.run import Run
from syncline.errors import NotFound

router = APIRouter(prefix="/v1/runs", tags=["runs"])


@router.get("/{run_id}/evaluations", operation_id="listEvaluations", summary="Evaluations by set and version")
async def list_evaluations(run: TheRun, page_size: PageSize = 100, page_token: PageToken = "") -> dict[str, Any]:
    """Mean score with its 95 % interval, pass@k, win rates, length; in the order in which they came in."""
    rows, following = page(run.series["evaluations"], size=page_size, token=page_token)
    return {"evaluations": rows, "next_page_token": following}


@router.get(
    "/{run_id}/evaluations/{name}/{version}", operation_id="getEvaluation", summary="One evaluation with its answers"
)
async def get_evaluation(
    run: TheRun, name: str, version: int, page_size: PageSize = 20, page_token: PageToken = ""
) -> dict[str, Any]:
    """The row, and prompt by prompt what the version answered, with scores and lengths."""
    row = next((row for row in reversed(run.series["evaluations"]) if _is(row, name, version)), None)
    if row is None:
        raise NotFound(f"run {run.id} has no evaluation of version {version} on {name!r}; it has: {_there(run)}")
    start = page_start(page_token)
    # One more than the page holds tells whether another follows.
    found = await asyncio.to_thread(
        lambda: list(islice(answers.read(run.folder, name, version, start=start), page_size + 1))
    )
    following = page_token_of(start + page_size) if len(found) > page_size else ""
    shown = [asdict(prompt) for prompt in found[:page_size]]
    return {"evaluation": row, "answers": shown, "next_page_token": following}


def _is(row: dict[str, Any], name: str, version: int) -> bool:
    return (row["name"], row["version"]) == (name, version)


def _there(run: Run) -> str:
    return ", ".join(f"{row['name']}/{row['version']}" for row in run.series["evaluations"]) or "none yet"
