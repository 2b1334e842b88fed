"""What a pod leaves behind when it is gone: work that it held, and its registration.

Both would run out by themselves. On Kubernetes the coordinator knows at once, and does not wait for that. A pod that
was only told to stop is left alone: it drains, hands back what it cannot finish, and finishes what it can.
"""

from __future__ import annotations

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.coordinator.cluster.pods import Pod
from syncline import keys
from syncline.redis_client import CONNECTION_ERRORS
from syncline.streams import Streams

log = structlog.get_logger()


async def take_over(redis: Redis, pod: Pod) -> int:
    """Give the work of a pod that is gone to the others; returns how many entries that were.

    Never raises for Redis: what could not be given is taken over when its lease runs out.
    """
    try:
        return await _take_over(redis, pod)
    except (RedisError, *CONNECTION_ERRORS) as error:
        log.warning("take_over_failed", pod=pod.name, error=str(error))
        return 0


async def _take_over(redis: Redis, pod: Pod) -> int:
    if pod.role is None:
        return 0
    await redis.delete(keys.member(pod.role, pod.name))
    streams = Streams(redis)
    released = 0
    if pod.role == "inference":
        async for name in redis.scan_iter(match=keys.prompts("*", "*"), count=1000):
            released += await streams.release(name.decode(), group=keys.INFERENCE_GROUP, consumer=pod.name)
    elif pod.role == "reward":
        released = await streams.release(keys.ROLLOUTS, group=keys.REWARD_GROUP, consumer=pod.name)
    log.info("pod_gone", pod=pod.name, entries_released=released)
    return released
