"""GET /v1/fleet, and the health of the coordinator itself."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import Field

from services.coordinator import metrics
from services.coordinator.api.bodies import read_as
from services.coordinator.cluster import pods
from services.coordinator.cluster.fleet import Fleet, describe
from services.coordinator.cluster.scaling import Scale
from services.coordinator.control.runs import Runs
from syncline.errors import SynclineError
from syncline.redis_client import memory, ping
from syncline.spec_part import Part
from syncline.state import RunState

router = APIRouter(tags=["fleet"])


class FleetChange(Part):
    """What of the fleet can be changed."""

    replicas: int = Field(strict=True, ge=0, le=10_000)


def fleet_of(request: Request) -> Fleet:
    fleet: Fleet = request.app.state.fleet
    return fleet


def scale_of(request: Request) -> Scale:
    scale: Scale = request.app.state.scale
    return scale


@router.get("/v1/fleet", operation_id="getFleet", summary="Live generators, reward services and learners")
async def get_fleet(request: Request) -> dict[str, Any]:
    """`replicas` is how many generators are wanted, null where nobody knows. `pods` says of each pod whether it has
    registered (null where it need not, as the learner's pods beside the first) and, if not, why; it is empty outside
    of Kubernetes, and `pods_trouble` says when it may be old.
    `pods_missing` says in words when there are fewer than are wanted."""
    fleet = fleet_of(request)
    troubles = fleet.troubles()
    shown: dict[str, Any] = {role: [describe(member) for member in found] for role, found in fleet.roles.items()}
    for generator in shown["inference"]:
        generator["trouble"] = troubles.get(generator["id"], "")
    wanted = fleet.wanted
    return {
        "wanted": {"run_id": wanted.run_id, "version": wanted.version} if wanted else None,
        "replicas": await scale_of(request).wanted(),
        "pods": [pods.describe(pod, registered=fleet.knows(pod)) for pod in fleet.cluster.current],
        "pods_trouble": fleet.cluster.trouble,
        "pods_missing": fleet.cluster.shortage,
        **shown,
    }


@router.patch("/v1/fleet", status_code=202, operation_id="changeFleet", summary="More or fewer generators")
async def change_fleet(
    request: Request, change: Annotated[FleetChange, Depends(read_as(FleetChange))]
) -> dict[str, Any]:
    """In the middle of a run too: joiners get the current weights, and leavers hand their work back.

    409 where nobody can be asked: generators that were started by hand, or that an autoscaler counts.
    """
    await scale_of(request).change(change.replicas)
    return await get_fleet(request)


@router.get("/healthz", operation_id="liveness", summary="The event loop turns", tags=["health"])
async def healthz() -> dict[str, str]:
    return {"status": "alive"}


@router.get("/readyz", operation_id="readiness", summary="Redis answers", tags=["health"])
async def readyz(request: Request) -> dict[str, str]:
    await ping(request.app.state.redis, timeout_s=2.0)
    return {"status": "ready"}


@router.get("/metrics", operation_id="metrics", summary="Prometheus metrics", tags=["health"])
async def get_metrics(request: Request) -> Response:
    fleet = fleet_of(request)
    for role, found in fleet.roles.items():
        metrics.MEMBERS.labels(role).set(len(found))
    metrics.observe_pods(fleet.cluster.current)
    with suppress(SynclineError):
        metrics.observe_redis(await memory(request.app.state.redis, timeout_s=2.0))
    runs: Runs = request.app.state.runs
    count = runs.count()
    for state in RunState:
        metrics.RUNS.labels(state.value).set(count[state])
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
