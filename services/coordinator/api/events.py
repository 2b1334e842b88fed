"""GET /v1/runs/{id}/events: the run's event log, as pages or live."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import JSONResponse
from sse_starlette import EventSourceResponse, ServerSentEvent

from services.coordinator.api.resources import page, run_resource
from services.coordinator.api.runs import PageSize, PageToken, TheRun
from services.coordinator.records.run import Run

router = APIRouter(prefix="/v1/runs", tags=["runs"])
_HEARTBEAT_S = 15
_STREAM = "text/event-stream"


@router.get(
    "/{run_id}/events",
    operation_id="listEvents",
    summary="The event log of a run; live with Accept: text/event-stream",
    response_model=dict[str, Any],
    responses={200: {"content": {_STREAM: {}}}},
)
async def list_events(
    run: TheRun,
    request: Request,
    accept: Annotated[str, Header()] = "",
    last_event_id: Annotated[str, Header()] = "",
    after: Annotated[int, Query(ge=0, description="id of the last event that is known")] = 0,
    page_size: PageSize = 100,
    page_token: PageToken = "",
) -> Response:
    """Pages of events after `after`, oldest first.

    With `Accept: text/event-stream` the same events live: a snapshot first, then every event after Last-Event-ID (or
    `after`); the stream ends with the run.
    """
    if _STREAM in accept:
        start = int(last_event_id) if last_event_id.isdecimal() else after
        stream: Response = EventSourceResponse(_events(run, start, request), ping=_HEARTBEAT_S)
        return stream
    rows, following = page(run.series["events"][after:], size=page_size, token=page_token)
    return JSONResponse({"events": rows, "next_page_token": following}, headers={"Vary": "Accept"})


async def _events(run: Run, position: int, request: Request) -> AsyncIterator[ServerSentEvent]:
    yield ServerSentEvent(event="snapshot", data=json.dumps(run_resource(run)))
    while True:
        for event in run.series["events"][position:]:
            position = event["id"]
            yield ServerSentEvent(
                id=str(position), event=event["type"], data=json.dumps(event["data"] | {"at": event["at"]})
            )
        if run.state.terminal and position >= len(run.series["events"]):
            return
        await run.changed.wait(timeout_s=_HEARTBEAT_S)
        if await request.is_disconnected():
            return
