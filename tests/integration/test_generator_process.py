"""`python -m services.inference` as a process: what its health says, to whoever asks as Kubernetes does, is true."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from syncline import keys, wanted
from syncline.errors import CheckpointError
from syncline.membership import Member, members
from syncline.rpc import Client
from syncline.streams import Streams
from syncline.v1.checkpoint_pb2 import CheckpointHandle
from syncline.v1.inference_service_pb2 import LoadCheckpointRequest
from syncline.v1.inference_service_pb2_grpc import InferenceServiceStub
from syncline.v1.rollout_pb2 import PURPOSE_TRAINING, PromptTask, RolloutGroup, SamplingParams, TaskKey
from tests.integration.published import publish
from tests.integration.tiny_models import make_tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
RUN = "run-1"
READY, ALIVE = "", "liveness"


class Process:
    """A generator with the light engine."""

    def __init__(self, process: asyncio.subprocess.Process, redis: Redis) -> None:
        self.process = process
        self._redis = redis

    async def member(self) -> Member:
        async with asyncio.timeout(120):
            while not (found := await members(self._redis, "inference")):
                assert self.process.returncode is None, "the generator ended before it registered"
                await asyncio.sleep(0.1)
        return found[0]

    async def health(self, service: str) -> str:
        """What grpc_health answers about a service."""
        address = (await self.member()).address
        async with grpc.aio.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            reply = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
        status: str = health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)
        return status

    async def until_ready(self, answer: str) -> None:
        async with asyncio.timeout(30):
            while await self.health(READY) != answer:
                await asyncio.sleep(0.1)
        assert await self.health(ALIVE) == "SERVING"

    async def until_it_says(self, error: str) -> None:
        async with asyncio.timeout(30):
            while error not in (await self.member()).status["error"]:
                await asyncio.sleep(0.1)

    async def load(self, handle: CheckpointHandle) -> None:
        client = Client((await self.member()).address, peer="generator")
        try:
            stub = client.stub(InferenceServiceStub)
            await client.call(stub.LoadCheckpoint, LoadCheckpointRequest(handle=handle), timeout_s=60)
        finally:
            await client.close()


@asynccontextmanager
async def generator(redis: Redis, redis_url: str, **settings: str) -> AsyncIterator[Process]:
    environment = {
        **os.environ,
        "SYNCLINE_REDIS_URL": redis_url,
        "SYNCLINE_MEMBER_ID": "inference-0",
        "SYNCLINE_ENGINE": "transformers",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        **settings,
    }
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "services.inference", env=environment)
    try:
        yield Process(process, redis)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_a_generator_is_ready_when_it_holds_what_is_wanted_or_nothing_is(
    redis: Redis, redis_url: str, tmp_path: Path
) -> None:
    handle = publish(tmp_path / "run", make_tiny_model(tmp_path / "model", seed=0), version=0)
    async with generator(redis, redis_url) as inference:
        await inference.until_ready("SERVING")  # there is no run: an installation can be waited for

        # When a run wants a version, then one that holds none is not ready, and one that cannot read it stays so
        await wanted.announce(redis, handle)
        await inference.until_ready("NOT_SERVING")
        unreadable = CheckpointHandle()
        unreadable.CopyFrom(handle)
        unreadable.uri = "file:///not/mounted"
        with pytest.raises(CheckpointError, match=r"has no manifest\.json"):
            await inference.load(unreadable)
        await inference.until_it_says("has no manifest.json")  # at its next beat
        assert await inference.health(READY) == "NOT_SERVING"

        # When it has loaded what is wanted, then it is ready
        await inference.load(handle)
        await inference.until_ready("SERVING")
        inference.process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(inference.process.wait(), 30) == 0


async def test_a_generator_that_is_told_to_leave_finishes_what_it_has_begun(
    redis: Redis, redis_url: str, tmp_path: Path
) -> None:
    handle = publish(tmp_path / "run", make_tiny_model(tmp_path / "model", seed=0), version=0)
    tasks = [
        PromptTask(
            key=TaskKey(run_id=RUN, step=0, prompt_index=index),
            purpose=PURPOSE_TRAINING,
            prompt_token_ids=[10, 20, 30],
            sampling=SamplingParams(temperature=1.0, top_p=1.0, max_tokens=480),
            seeds=range(16),
        )
        for index in range(50)
    ]
    async with generator(redis, redis_url, SYNCLINE_GRACE_S="120", SYNCLINE_LEASE_S="1") as inference:
        await inference.load(handle)
        await Streams(redis).open_run(RUN)
        payloads = [task.SerializeToString() for task in tasks]
        await Streams(redis).add_all(keys.prompts(RUN, 0), run_id=RUN, payloads=payloads)
        async with asyncio.timeout(60):
            while not await _under_way(redis):
                await asyncio.sleep(0.02)
        done = int(await redis.xlen(keys.ROLLOUTS))
        inference.process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(inference.process.wait(), 110) == 0
    # Then what was in the engine was answered, the rest lies there for others, and nobody waits for a lease
    found = [RolloutGroup.FromString(fields[b"p"]) for _, fields in await redis.xrange(keys.ROLLOUTS)]
    assert done < len(found) < len(tasks)
    assert await redis.xlen(keys.prompts(RUN, 0)) == len(tasks) - len(found)
    assert await _under_way(redis) == 0


async def _under_way(redis: Redis) -> int:
    """Groups that a generator has taken; none before it has joined."""
    with suppress(ResponseError):
        return int((await redis.xpending(keys.prompts(RUN, 0), keys.INFERENCE_GROUP))["pending"])
    return 0
