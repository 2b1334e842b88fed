"""Whether a version is wanted of the generators, told through Redis to those that nobody has spoken to yet.

A generator that holds nothing is ready while nobody wants anything, and not ready as soon as a run does. So a rolling
upgrade in mid-run replaces the next generator only when the last one serves, and one that cannot load counts for none.
"""

from __future__ import annotations

import asyncio

from redis.asyncio import Redis
from redis.exceptions import RedisError

from syncline import keys
from syncline.errors import Unavailable
from syncline.v1.checkpoint_pb2 import CheckpointHandle


async def announce(redis: Redis, handle: CheckpointHandle | None) -> None:
    """Say which version every generator should hold; None: nobody needs to hold any."""
    if handle is None:
        await redis.delete(keys.WANTED)
    else:
        await redis.set(keys.WANTED, f"version {handle.version} of {handle.run_id}")


async def announced(redis: Redis, *, timeout_s: float = 5.0) -> str:
    """Run and version that are wanted, in words; empty for none. Raises Unavailable."""
    try:
        async with asyncio.timeout(timeout_s):
            said = await redis.get(keys.WANTED)
    except (RedisError, OSError, TimeoutError) as error:
        raise Unavailable(f"Redis does not say whether a version is wanted ({error})") from error
    return said.decode() if isinstance(said, bytes) else ""
