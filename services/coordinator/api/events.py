"""GET /v1/runs/{id}/events: the run's event log, live."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Request
from sse_starlette import EventSourceResponse, ServerSentEvent

from services.coordinator.api.resources import run_resource
from services.coordinator.api.runs import TheRun
from services.coordinator.store import Run

router = APIRouter(prefix="/v1/runs", tags=["runs"])
_HEARTBEAT_S = 15


@router.get("/{run_id}/events", operation_id="followRun", summary="Follow a run (server-sent events)")
async def follow_run(
    run: TheRun, request: Request, last_event_id: Annotated[str, Header()] = ""
) -> EventSourceResponse:
    """A snapshot first, then every event after Last-Event-ID; the stream ends with the run."""
    start = int(last_event_id) if last_event_id.isdigit() else 0
    return EventSourceResponse(_events(run, start, request), ping=_HEARTBEAT_S)


async def _events(run: Run, position: int, request: Request) -> AsyncIterator[ServerSentEvent]:
    yield ServerSentEvent(event="snapshot", data=json.dumps(run_resource(run)))
    while True:
        for event in run.series["events"][position:]:
            position = event["id"]
            yield ServerSentEvent(
                id=str(position), event=event["type"], data=json.dumps(event["data"] | {"at": event["at"]})
            )
        if run.state.terminal and position == len(run.series["events"]):
            return
        await run.changed.wait(timeout_s=_HEARTBEAT_S)
        if await request.is_disconnected():
            return
