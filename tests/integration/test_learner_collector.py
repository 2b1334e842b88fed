"""The collector beside a Redis that goes away."""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from services.learner.collector import Collector
from services.local import valkey
from syncline import keys, redis_client, streams
from syncline.runspec import RunSpec
from syncline.streams import Streams
from syncline.v1.rollout_pb2 import ScoredGroup
from tests.integration.learner_world import RUN, groups_of, scored_group, spec_of
from tests.integration.tiny_models import VOCAB_SIZE
from tests.redis_server import wait_until_up

SPEC = spec_of(Path("unused"))


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="syncline-") as name:
        yield Path(name)


class Server:
    """A Redis of the test's own, to be killed and started again; it keeps nothing on disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(valkey.command(self.folder), stdout=subprocess.DEVNULL)
        wait_until_up(self.folder, self.process)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(timeout=10)


def collector_on(redis: Redis, *, spec: RunSpec = SPEC, lease_s: float = 5.0) -> Collector:
    return Collector(redis, run_id=RUN, spec=spec, vocabulary=VOCAB_SIZE, published=(), lease_s=lease_s)


async def add(redis: Redis, groups: list[ScoredGroup]) -> None:
    await Streams(redis).open_run(RUN)
    await Streams(redis).add_all(keys.scored(RUN), run_id=RUN, payloads=[one.SerializeToString() for one in groups])


@asynccontextmanager
async def collecting(collector: Collector, step: int) -> AsyncIterator[asyncio.Task[list[int]]]:
    """The prompt indices of a step, collected beside what the test does."""

    async def collect() -> list[int]:
        collected = await collector.collect(step)
        return [group.group.task.key.prompt_index for group in collected.groups]

    task = asyncio.create_task(collect())
    try:
        yield task
    finally:
        task.cancel()


async def test_a_redis_that_dies_and_comes_back_empty_is_waited_out(folder: Path) -> None:
    server = Server(folder)
    server.start()
    redis = redis_client.connect(valkey.url(folder))
    groups = groups_of(SPEC, [0])
    collector = collector_on(redis)
    try:
        # Given a collector that has two groups of four
        await add(redis, groups[:2])
        async with collecting(collector, 0) as task, collector.leased():
            async with asyncio.timeout(10):
                while "2 of 4" not in collector.describe(0):
                    await asyncio.sleep(0.01)
            # When Redis dies with all it held, and comes back
            server.kill()
            async with asyncio.timeout(20):
                while "Redis does not answer" not in collector.describe(0):
                    await asyncio.sleep(0.01)
            server.start()
            # Then the groups in memory count, what the coordinator admits anew is taken once, and the rest completes
            await add(redis, [groups[0], *groups[2:]])
            assert await asyncio.wait_for(task, 20) == [0, 1, 2, 3]
            await collector.done(0)
        assert await Streams(redis).outstanding([keys.scored(RUN)]) == [0]
    finally:
        await redis.aclose()
        server.kill()


async def test_work_that_is_purged_and_admitted_anew_is_taken_once(redis: Redis) -> None:
    collector = collector_on(redis)
    groups = groups_of(SPEC, [0])
    await add(redis, groups[:2])
    async with collecting(collector, 0) as task, collector.leased():
        async with asyncio.timeout(10):
            while "2 of 4" not in collector.describe(0):
                await asyncio.sleep(0.01)
        await Streams(redis).purge_run(RUN)  # while the collector blocks in a read of that stream
        await add(redis, groups)
        assert await asyncio.wait_for(task, 10) == [0, 1, 2, 3]
        await collector.done(0)
    assert await Streams(redis).outstanding([keys.scored(RUN)]) == [0]


async def test_groups_of_later_steps_wait_under_a_renewed_lease(redis: Redis) -> None:
    # Given a collector that holds a group of the next step, and leases much shorter than the test
    collector = collector_on(redis, lease_s=0.3)
    rival = streams.StreamConsumer(
        redis, stream=keys.scored(RUN), group=keys.LEARNER_GROUP, consumer="rival", lease_s=0.3
    )
    await add(redis, [scored_group(SPEC, 1, 0), *groups_of(SPEC, [0])])
    async with collector.leased():
        assert len((await collector.collect(0)).groups) == 4
        # When three leases have passed, nobody else gets anything
        for _ in range(9):
            assert await rival.take(10, wait_s=0.1) == []
        # Then the step is acknowledged, and the early group is part of the next one
        await collector.done(0)
        await add(redis, groups_of(SPEC, [1])[1:])
        assert len((await collector.collect(1)).groups) == 4
        await collector.done(1)
    assert await Streams(redis).outstanding([keys.scored(RUN)]) == [0]


async def test_what_was_not_trained_is_handed_back_at_once(redis: Redis) -> None:
    first, second = collector_on(redis), collector_on(redis)
    await add(redis, groups_of(SPEC, [0, 1]))
    assert len((await first.collect(0)).groups) == 4
    await first.hand_back()
    async with asyncio.timeout(2.0):  # below the lease
        assert len((await second.collect(0)).groups) == 4


async def test_nothing_is_acknowledged_before_its_step_is_done(redis: Redis) -> None:
    collector = collector_on(redis)
    await add(redis, groups_of(SPEC, [0]))
    await collector.collect(0)
    assert await Streams(redis).outstanding([keys.scored(RUN)]) == [4]
    await collector.done(0)
    assert await Streams(redis).outstanding([keys.scored(RUN)]) == [0]


async def test_a_payload_that_is_no_group_becomes_a_dead_letter(redis: Redis) -> None:
    collector = collector_on(redis)
    await Streams(redis).open_run(RUN)
    await Streams(redis).add(keys.scored(RUN), run_id=RUN, payload=b"\xff\xff\xff")
    for step in range(3):  # it is delivered three times
        await add(redis, groups_of(SPEC, [step]))
        await collector.collect(step)
        await collector.done(step)
    (letter,) = await redis.xrange(keys.dead(RUN))
    assert letter[1][b"cause"] == b"the payload is not a ScoredGroup"
