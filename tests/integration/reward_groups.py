"""Rollout groups for the tests of the reward service."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from redis.asyncio import Redis

from services.reward.scorer import Scorer
from services.reward.worker import RewardWorker
from syncline import keys
from syncline.backoff import Backoff
from syncline.streams import Streams
from syncline.v1 import rollout_pb2 as pb

RUN = "run-a"
MATH = '{"type": "math"}'


async def until(condition: Callable[[], object], *, what: str, timeout_s: float = 30.0) -> None:
    """Return once `condition()` is true; fail by name when it never is."""
    try:
        async with asyncio.timeout(timeout_s):
            while not condition():
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"{what}: not within {timeout_s:g} s") from None


def running_process(pid: int) -> bool:
    """Whether a process runs; one that ended and waits to be reaped does not."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def group(
    *completions: str,
    answer: str = "85",
    index: int = 0,
    purpose: pb.Purpose = pb.PURPOSE_TRAINING,
    reward_json: str = MATH,
    run_id: str = RUN,
) -> pb.RolloutGroup:
    key = pb.TaskKey(run_id=run_id, step=3, prompt_index=index)
    if purpose == pb.PURPOSE_EVALUATION:
        key.evaluation = "held-out"
    task = pb.PromptTask(
        key=key, purpose=purpose, task="sums", reward_json=reward_json, answer=answer, prompt_text="What is 80 + 5?"
    )
    samples = [pb.Sample(text=text, token_ids=[1, 2, 3], log_probs=[-0.5, -0.25, -1.0]) for text in completions]
    return pb.RolloutGroup(task=task, samples=samples, generator="inference-0")


async def add(redis: Redis, *groups: pb.RolloutGroup) -> None:
    """Open the run and put groups on the rollout stream."""
    work = Streams(redis)
    for one in groups:
        await work.open_run(one.task.key.run_id)
        assert await work.add(keys.ROLLOUTS, run_id=one.task.key.run_id, payload=one.SerializeToString())


async def entries(redis: Redis, stream: str, *, count: int, timeout_s: float = 60.0) -> list[dict[bytes, bytes]]:
    """The fields of the entries of `stream`, once there are `count`."""
    async with asyncio.timeout(timeout_s):
        while await redis.xlen(stream) < count:
            await asyncio.sleep(0.005)
    return [fields for _, fields in await redis.xrange(stream)]


async def scored(redis: Redis, *, count: int, stream: str = "", timeout_s: float = 60.0) -> list[pb.ScoredGroup]:
    found = await entries(redis, stream or keys.scored(RUN), count=count, timeout_s=timeout_s)
    return [pb.ScoredGroup.FromString(fields[b"p"]) for fields in found]


def worker(redis: Redis, scorer: Scorer, *, consumer: str = "reward-0", lease_s: float = 15.0) -> RewardWorker:
    """A stream worker that tries again quickly."""
    return RewardWorker(
        redis,
        scorer=scorer,
        consumer=consumer,
        lease_s=lease_s,
        groups_in_flight=8,
        backoff=Backoff(first_s=0.01, longest_s=0.05),
    )
