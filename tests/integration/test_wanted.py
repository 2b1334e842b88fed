"""What the coordinator tells generators that it has not reached yet, and whom it leaves alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis.asyncio import Redis

from services.coordinator.cluster.fleet import Fleet
from syncline import wanted
from syncline.membership import Registration
from syncline.v1.checkpoint_pb2 import CheckpointHandle

HANDLE = CheckpointHandle(run_id="run-1", version=3, manifest_digest="d", uri="file:///nowhere")
KEPT = CheckpointHandle(run_id="run-0", version=1)


@asynccontextmanager
async def at_work(fleet: Fleet) -> AsyncIterator[None]:
    task = asyncio.create_task(fleet.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until_announced(redis: Redis, words: str) -> None:
    async with asyncio.timeout(20):
        while await wanted.announced(redis) != words:
            await asyncio.sleep(0.01)


async def test_generators_are_told_what_is_wanted_also_after_redis_has_forgotten_it(redis: Redis) -> None:
    fleet = Fleet(redis, load_deadline_s=10, poll_s=0.02)
    async with at_work(fleet):
        fleet.want(HANDLE)
        await until_announced(redis, "version 3 of run-1")
        await redis.flushall()
        await until_announced(redis, "version 3 of run-1")
        fleet.want(None)
        await until_announced(redis, "")


async def test_a_coordinator_that_starts_anew_calls_nothing_off_before_its_runs_have_spoken(redis: Redis) -> None:
    await wanted.announce(redis, KEPT)
    fleet = Fleet(redis, load_deadline_s=10, poll_s=0.02)
    async with at_work(fleet):
        looked = asyncio.create_task(_registered(redis, "inference-0", phase="serving"))
        async with asyncio.timeout(20):
            while not fleet.generators:  # it has looked around by then
                await asyncio.sleep(0.01)
        assert await wanted.announced(redis) == "version 1 of run-0"
        fleet.want(None)
        await until_announced(redis, "")
        looked.cancel()


async def test_a_generator_that_drains_is_asked_for_nothing_more(redis: Redis) -> None:
    fleet = Fleet(redis, load_deadline_s=10, poll_s=0.02)
    fleet.want(HANDLE)
    async with at_work(fleet):
        leaving = asyncio.create_task(_registered(redis, "leaving", phase="draining"))
        staying = asyncio.create_task(_registered(redis, "staying", phase="idle"))
        async with asyncio.timeout(20):
            while set(fleet.troubles()) != {"staying"}:  # nobody listens at its address
                await asyncio.sleep(0.01)
        assert {member.id for member in fleet.roles["inference"]} == {"leaving", "staying"}
        assert [member.id for member in fleet.generators] == ["staying"]
        for task in (leaving, staying):
            task.cancel()


async def _registered(redis: Redis, name: str, *, phase: str) -> None:
    await Registration(
        redis,
        role="inference",
        id=name,
        address="127.0.0.1:1",
        ttl_s=60.0,
        status=lambda: {"phase": phase},
    ).beat()
