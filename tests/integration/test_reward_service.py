"""The whole reward service as a process of its own: readiness, Score, SIGTERM, SIGKILL."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from redis.asyncio import Redis

from syncline import keys
from syncline.errors import PeerTimeout, SynclineError, Unavailable
from syncline.membership import members
from syncline.rpc import Client
from syncline.v1 import reward_service_pb2 as pb
from syncline.v1 import rollout_pb2
from syncline.v1.reward_service_pb2_grpc import RewardServiceStub
from tests.integration.reward_groups import MATH, add, group, running_process, scored
from tests.waiting import until

ROOT = Path(__file__).parents[2]
SLOW = r"\boxed{9^{9^{9^9}}}"


@dataclass
class Service:
    process: asyncio.subprocess.Process
    client: Client
    log: Path

    def stub(self) -> RewardServiceStub:
        return self.client.stub(RewardServiceStub)

    async def serving(self) -> bool:
        """What a readiness probe sees."""
        stub = self.client.stub(health_pb2_grpc.HealthStub)
        try:
            reply = await self.client.call(stub.Check, health_pb2.HealthCheckRequest(), timeout_s=5)
        except Unavailable:
            return False
        return reply.status == health_pb2.HealthCheckResponse.SERVING

    async def until_serving(self, *, expected: bool = True) -> None:
        async with asyncio.timeout(90):
            while await self.serving() is not expected:
                assert self.process.returncode is None, self.log.read_text()
                await asyncio.sleep(0.02)

    async def score(self, *items: pb.ScoreItem, reward_json: str = MATH, timeout_s: float = 60.0) -> pb.ScoreResponse:
        request = pb.ScoreRequest(reward_json=reward_json, items=items)
        return await self.client.call(self.stub().Score, request, timeout_s=timeout_s)


async def start(folder: Path, redis_url: str, **settings: str) -> Service:
    address = f"unix:{folder / 'reward.sock'}"
    log = folder / "reward.log"
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "shared")]),
        "SYNCLINE_REDIS_URL": redis_url,
        "SYNCLINE_BIND": address,
        "SYNCLINE_MEMBER_ID": "reward-x",
        "SYNCLINE_LEASE_S": "1",
        "SYNCLINE_LOG_FORMAT": "json",
    }
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "services.reward"), cwd=ROOT, env=environment | settings, stderr=out
        )
    return Service(process, Client(address, peer="reward-x"), log)


@pytest.fixture
async def service(short_path: Path, redis_url: str, redis: Redis) -> AsyncIterator[Service]:
    one = await start(short_path, redis_url)
    try:
        await one.until_serving()
        yield one
    finally:
        if one.process.returncode is None:
            one.process.kill()
        await one.process.wait()
        await one.client.close()


@pytest.fixture
def short_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A unix socket's path is limited to about 100 characters."""
    return tmp_path_factory.mktemp("s")


def item(completion: str, answer: str = "85") -> pb.ScoreItem:
    return pb.ScoreItem(prompt_text="What is 80 + 5?", completion=completion, answer=answer)


def descendants(pid: int) -> set[int]:
    """All processes below `pid`, from /proc."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


async def test_score_answers_in_order_and_get_status_tells(service: Service, redis: Redis) -> None:
    reply = await service.score(item("85"), item(r"\boxed{84}"), item("none"), item(SLOW), item("It is 85."))
    statuses = [verdict.status for verdict in reply.verdicts]
    assert statuses == [
        rollout_pb2.VERDICT_STATUS_SCORED,
        rollout_pb2.VERDICT_STATUS_SCORED,
        rollout_pb2.VERDICT_STATUS_UNPARSABLE,
        rollout_pb2.VERDICT_STATUS_TIMEOUT,
        rollout_pb2.VERDICT_STATUS_SCORED,
    ]
    assert [verdict.score for verdict in reply.verdicts] == [1.0, 0.0, 0.0, 0.0, 1.0]

    status = await service.client.call(service.stub().GetStatus, pb.RewardServiceGetStatusRequest(), timeout_s=10)
    assert status.id == "reward-x"
    verifiers = ["verifier:exact_match", "verifier:math", "verifier:pattern"]
    assert list(status.rewards) == ["judge", "math", "reward_model", *verifiers]
    assert status.workers == 3
    assert status.verdicts_total == {"math/scored": 3, "math/unparsable": 1, "math/timeout": 1}
    assert status.error == ""

    [member] = await members(redis, "reward")
    assert (member.id, member.address) == ("reward-x", service.client.address)
    assert member.status["rewards"] == list(status.rewards)


async def test_score_refuses_what_it_cannot_judge(service: Service) -> None:
    for request, problem in (
        ({"reward_json": '{"type": "oracle"}'}, "reward.type: 'oracle' is not known"),
        ({"reward_json": "{"}, "reward: "),
    ):
        with pytest.raises(SynclineError, match=problem):
            await service.score(item("85"), **request)
    with pytest.raises(SynclineError, match="cannot be read"):
        await service.score(item("85", answer=r"\boxed{}"))
    with pytest.raises(SynclineError, match="at most 4096"):
        await service.score(*[item("85")] * 4097)
    assert len((await service.score()).verdicts) == 0


async def test_score_ends_at_the_callers_deadline(service: Service) -> None:
    started = time.monotonic()
    with pytest.raises(PeerTimeout, match="reward-x"):
        await service.score(*(item(SLOW, answer=str(i)) for i in range(40)), timeout_s=0.5)
    assert time.monotonic() - started < 5.0


async def test_a_stopped_service_turns_not_ready_hands_back_and_leaves_nothing_behind(
    service: Service, redis: Redis
) -> None:
    # given groups in work that take seconds
    await add(redis, *(group(SLOW, answer=str(i), index=i) for i in range(20)))
    async with asyncio.timeout(30):
        while (await redis.xpending(keys.ROLLOUTS, keys.REWARD_GROUP))["pending"] == 0:
            await asyncio.sleep(0.01)
    below = descendants(service.process.pid)
    assert len(below) >= 3
    # when it is told to stop
    service.process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(service.process.wait(), timeout=20) == 0
    # then nothing is pending, nothing is lost, nobody is registered, no process is left
    assert (await redis.xpending(keys.ROLLOUTS, keys.REWARD_GROUP))["pending"] == 0
    assert await redis.xlen(keys.ROLLOUTS) + await redis.xlen(keys.scored("run-a")) == 20
    assert await members(redis, "reward") == []
    await until(lambda: not any(running_process(pid) for pid in below), what="all children are gone")


async def test_a_killed_service_leaves_no_process_and_its_work_is_taken_over(
    service: Service, redis: Redis, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # given a service whose workers are in the middle of a check
    await add(redis, *(group(SLOW, "85", answer=str(i), index=i) for i in range(6)))
    async with asyncio.timeout(30):
        while (await redis.xpending(keys.ROLLOUTS, keys.REWARD_GROUP))["pending"] == 0:
            await asyncio.sleep(0.01)
    below = descendants(service.process.pid)
    assert len(below) >= 3
    # when it is killed without warning
    service.process.kill()
    await service.process.wait()
    # then no child survives it
    await until(lambda: not any(running_process(pid) for pid in below), what="the end of all children", within_s=10)
    # and another service finishes the work after the lease
    heir = await start(
        tmp_path_factory.mktemp("h"), redis_url, SYNCLINE_MEMBER_ID="reward-y", SYNCLINE_CHECK_CPU_S="0.2"
    )
    try:
        done = await scored(redis, count=6)
        assert {one.group.task.key.prompt_index for one in done} == set(range(6))
    finally:
        heir.process.kill()
        await heir.process.wait()
        await heir.client.close()


async def test_a_service_whose_verifier_cannot_start_says_so_and_ends(
    short_path: Path, redis_url: str, redis: Redis
) -> None:
    (short_path / "math_verify.py").write_text("raise ImportError('no such package here')")
    path = os.pathsep.join([str(short_path), str(ROOT), str(ROOT / "shared")])
    one = await start(short_path, redis_url, PYTHONPATH=path)
    try:
        assert await asyncio.wait_for(one.process.wait(), timeout=60) == 1
        text = one.log.read_text()
        assert "the verifier failed 3 times in a row" in text
        assert "self-test of math: 2/4 against 1/2 gave unparsable 0 math failed: ImportError in math_verify.py" in text
    finally:
        await one.client.close()


async def test_a_service_whose_verifier_cannot_tell_two_quarters_from_a_third_is_never_ready(
    short_path: Path, redis_url: str, redis: Redis
) -> None:
    (short_path / "math_verify.py").write_text(
        "def parse(text, **_): return [text]\ndef verify(gold, target, **_): return True\n"
    )
    path = os.pathsep.join([str(short_path), str(ROOT), str(ROOT / "shared")])
    one = await start(short_path, redis_url, PYTHONPATH=path)
    try:
        while one.process.returncode is None:
            assert not await one.serving()
            await asyncio.sleep(0.02)
        assert one.process.returncode == 1
        assert "self-test of math: 2/4 against 1/3 gave scored 1" in one.log.read_text()
    finally:
        await one.client.close()


async def test_no_answer_ever_reaches_the_log(service: Service) -> None:
    await service.score(
        item(r"\boxed{TOPSECRET^{9^{9^{9^9}}}}"), item(r"TOPSECRET $\frac{$ 1 2"), item("TOPSECRET" * 9999)
    )
    assert "TOPSECRET" not in service.log.read_text()
