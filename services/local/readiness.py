"""Asking a child whether it is ready: by Redis, HTTP or gRPC health, as its address says."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc
from redis.asyncio import Redis

from syncline import redis_client
from syncline.errors import SynclineError
from syncline.rpc import Client

_PERIOD_S = 0.1
_CALL_DEADLINE_S = 2.0


async def until_ready(address: str, *, peer: str) -> None:
    """Return when `peer` says that it is ready; ask forever (the caller has the deadline)."""
    if address.startswith("redis+"):
        client = redis_client.connect(address.removeprefix("redis+"))
        try:
            await _poll(lambda: _redis_answers(client))
        finally:
            await client.aclose()
    elif address.startswith("http"):
        async with httpx.AsyncClient(timeout=_CALL_DEADLINE_S, trust_env=False) as http:
            await _poll(lambda: _http_answers(http, address))
    else:
        channel = Client(address, peer=peer)
        try:
            await _poll(lambda: _grpc_answers(channel))
        finally:
            await channel.close()


async def _poll(answers: Callable[[], Awaitable[bool]]) -> None:
    while True:
        if await answers():
            return
        await asyncio.sleep(_PERIOD_S)


async def _redis_answers(client: Redis) -> bool:
    try:
        await redis_client.ping(client, timeout_s=_CALL_DEADLINE_S)
    except SynclineError:
        return False
    return True


async def _http_answers(http: httpx.AsyncClient, address: str) -> bool:
    try:
        return (await http.get(address)).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


async def _grpc_answers(channel: Client) -> bool:
    stub: Any = channel.stub(health_pb2_grpc.HealthStub)
    try:
        reply = await channel.call(stub.Check, health_pb2.HealthCheckRequest(), timeout_s=_CALL_DEADLINE_S)
    except SynclineError:
        return False
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)
