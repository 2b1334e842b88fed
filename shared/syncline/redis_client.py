"""The Redis server as services reach it: a client with deadlines, whether it answers, how much it holds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from syncline.errors import Unavailable

SOCKET_TIMEOUT_S = 10.0
CONNECTION_ERRORS = (RedisConnectionError, RedisTimeoutError, OSError)
"""What a lost Redis server looks like to a client."""


def connect(url: str) -> Redis:
    """A client for the Redis-compatible server at `url` (redis://, rediss:// or unix://).

    Calls time out and are retried a few times with backoff; no connection is made before the first call.
    """
    client = Redis.from_url(
        url,
        socket_timeout=SOCKET_TIMEOUT_S,
        socket_connect_timeout=5.0,
        health_check_interval=15,
        retry=Retry(ExponentialBackoff(cap=1.0, base=0.05), retries=3),
        retry_on_error=[RedisConnectionError, RedisTimeoutError],
        decode_responses=False,
    )
    pool = client.connection_pool
    pool.connection_class = type("Connection", (_Cancellable, pool.connection_class), {})
    return client


class _Cancellable(AbstractConnection):
    """redis-py sends under `asyncio.wait_for`, which on Python 3.11 loses a cancellation that comes as the send ends.

    The task that was cancelled then goes on forever, and whoever waits for its end with it.
    """

    async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
        timeout_s, self.socket_timeout = self.socket_timeout, None  # without one, redis-py sends directly
        try:
            async with asyncio.timeout(timeout_s):
                await super().send_packed_command(command, check_health)
        except TimeoutError:
            raise RedisTimeoutError("timeout writing to socket") from None
        finally:
            self.socket_timeout = timeout_s


@dataclass(frozen=True, slots=True)
class Memory:
    """What the server holds, and may hold; a limit of 0 is none."""

    used_bytes: int
    limit_bytes: int


async def memory(redis: Redis, *, timeout_s: float = 5.0) -> Memory:
    """Memory of the server. Raises Unavailable."""
    try:
        async with asyncio.timeout(timeout_s):
            info = await redis.info("memory")
    except (RedisError, OSError, TimeoutError) as error:
        raise Unavailable(f"Redis does not tell of its memory ({error})") from error
    return Memory(used_bytes=int(info["used_memory"]), limit_bytes=int(info.get("maxmemory", 0)))


async def ping(redis: Redis, *, timeout_s: float = 5.0) -> None:
    """Raise Unavailable unless the server answers within `timeout_s`."""
    try:
        async with asyncio.timeout(timeout_s):
            await redis.ping()
    except (RedisError, OSError, TimeoutError) as error:
        raise Unavailable(
            f"Redis does not answer ({error}); check SYNCLINE_REDIS_URL and that the server runs"
        ) from error
