"""GET /v1/fleet, and the health of the coordinator itself."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from services.coordinator import metrics
from services.coordinator.fleet import Fleet, describe
from services.coordinator.runs import Runs
from syncline.state import RunState
from syncline.streams import ping

router = APIRouter(tags=["fleet"])


def fleet_of(request: Request) -> Fleet:
    fleet: Fleet = request.app.state.fleet
    return fleet


@router.get("/v1/fleet", operation_id="getFleet", summary="Live generators, reward services and learners")
async def get_fleet(request: Request) -> dict[str, Any]:
    fleet = fleet_of(request)
    troubles = fleet.troubles()
    shown: dict[str, Any] = {role: [describe(member) for member in found] for role, found in fleet.roles.items()}
    for generator in shown["inference"]:
        generator["trouble"] = troubles.get(generator["id"], "")
    wanted = fleet.wanted
    return {"wanted": {"run_id": wanted.run_id, "version": wanted.version} if wanted else None, **shown}


@router.get("/healthz", operation_id="liveness", summary="The event loop turns", tags=["health"])
async def healthz() -> dict[str, str]:
    return {"status": "alive"}


@router.get("/readyz", operation_id="readiness", summary="Redis answers", tags=["health"])
async def readyz(request: Request) -> dict[str, str]:
    await ping(request.app.state.redis, timeout_s=2.0)
    return {"status": "ready"}


@router.get("/metrics", operation_id="metrics", summary="Prometheus metrics", tags=["health"])
async def get_metrics(request: Request) -> Response:
    for role, found in fleet_of(request).roles.items():
        metrics.MEMBERS.labels(role).set(len(found))
    runs: Runs = request.app.state.runs
    count = runs.count()
    for state in RunState:
        metrics.RUNS.labels(state.value).set(count[state])
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
