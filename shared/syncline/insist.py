"""Calls to Redis that have to be carried out, however long it is away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
from redis.exceptions import RedisError

from syncline.backoff import Backoff
from syncline.redis_client import CONNECTION_ERRORS

log = structlog.get_logger()
Reply = TypeVar("Reply")
_BACKOFF = Backoff(first_s=0.1, longest_s=2.0)


async def insist(
    call: Callable[[], Awaitable[Reply]],
    *,
    tell: Callable[[str], None],
    give_up: Callable[[], bool] = lambda: False,
    backoff: Backoff = _BACKOFF,
) -> Reply:
    """Repeat `call` until Redis carries it out. One that answers with an error (a full disk, too little memory) is as
    much away as one that is silent.

    `tell` gets the trouble in words, and "" when it is over. Once `give_up` says so, the next error is raised.
    """
    pauses, away = backoff.pauses(), False
    while True:
        try:
            reply = await call()
        except (RedisError, *CONNECTION_ERRORS) as error:
            if give_up():
                raise
            if not away:
                log.warning("redis_away", error=str(error))
            away = True
            tell(f"Redis does not answer as it should ({error})")
            await asyncio.sleep(next(pauses))
        else:
            if away:
                log.info("redis_is_back")
                tell("")
            return reply
