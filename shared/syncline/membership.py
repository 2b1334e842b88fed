"""Who is alive: every process registers itself in Redis under a lease.

Discovery needs no configuration: a generator that appears at any moment registers and is
found; one that dies is gone when its lease runs out. If Redis loses its data, everybody is
back after one beat.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import structlog
from pydantic import TypeAdapter, ValidationError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from syncline import keys
from syncline.redis_client import CONNECTION_ERRORS

Role = Literal["inference", "reward", "learner", "coordinator"]
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Member:
    """One live process as it describes itself."""

    id: str
    role: Role
    address: str
    """gRPC target that peers dial."""
    host: str
    pid: int
    started_at: float
    """Unix time."""
    status: Mapping[str, Any] = field(default_factory=dict)
    """What the role wants to show: phase, run, version, error, counters."""


_RECORD = TypeAdapter(Member)  # keys that it does not know are left out


class Registration:
    """Keeps one member registered. `status` is asked anew at each beat."""

    def __init__(
        self,
        redis: Redis,
        *,
        role: Role,
        id: str,
        address: str,
        ttl_s: float,
        status: Callable[[], Mapping[str, Any]],
    ) -> None:
        self._redis = redis
        self._member = Member(
            id=id, role=role, address=address, host=socket.gethostname(), pid=os.getpid(), started_at=time.time()
        )
        self._ttl_s = ttl_s
        self._status = status
        self._news = asyncio.Event()

    def beat_soon(self) -> None:
        """The status has changed: register at once rather than at the next beat."""
        self._news.set()

    async def run(self) -> None:
        """Register every quarter of the lease and on news, until cancelled; then leave at once."""
        try:
            while True:
                try:
                    await self.beat()
                except (RedisError, *CONNECTION_ERRORS) as error:
                    log.warning("registration_failed", error=str(error))
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._ttl_s / 4):
                        await self._news.wait()
                self._news.clear()
        finally:
            await asyncio.shield(self._leave())

    async def beat(self) -> None:
        """Register now."""
        record = asdict(self._member) | {"status": dict(self._status())}
        await self._redis.set(
            keys.member(self._member.role, self._member.id), json.dumps(record), px=int(self._ttl_s * 1000)
        )

    async def _leave(self) -> None:
        try:
            async with asyncio.timeout(2.0):
                await self._redis.delete(keys.member(self._member.role, self._member.id))
        except (RedisError, TimeoutError, *CONNECTION_ERRORS):
            log.info("left_without_deregistering")  # the lease runs out by itself


async def members(redis: Redis, role: Role) -> list[Member]:
    """Live members of a role, oldest first.

    In a rolling upgrade they are not all of this version: what newer ones say beyond it is left out, and one whose
    record does not fit is logged and not seen.
    """
    names = [name async for name in redis.scan_iter(match=keys.members_pattern(role), count=1000)]
    if not names:
        return []
    found: list[Member] = []
    for name, record in zip(names, await redis.mget(names), strict=True):
        try:
            if record is not None:
                found.append(_RECORD.validate_json(record))
        except ValidationError as error:
            log.warning("member_not_understood", key=name, error=str(error))
    return sorted(found, key=lambda member: (member.started_at, member.id))
