"""Submission asks a real reward service about the rewards of a run spec."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.coordinator.reward_check import check_rewards
from services.reward.endpoints import Endpoints
from services.reward.scorer import Scorer, rewards
from services.reward.servicer import RewardServicer
from services.reward.settings import RewardSettings
from services.reward.verifiers.pool import VerifierPool
from syncline import rpc, runspec
from syncline.errors import InvalidSpec
from syncline.membership import Member
from syncline.v1.reward_service_pb2_grpc import add_RewardServiceServicer_to_server


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Member]:
    settings = RewardSettings()
    pool = VerifierPool(workers=1, limits=settings.limits, wall_s=60.0)
    pool.ready.set()  # options are checked beside the workers, none of which is needed here
    scorer = Scorer(rewards(settings, pool, Endpoints()))
    server = rpc.Server(f"unix:{tmp_path}/s.sock")
    servicer = RewardServicer(scorer, pool=pool, member_id="reward-1", error=str)
    server.add(add_RewardServiceServicer_to_server, servicer, name="syncline.v1.RewardService")
    await server.start()
    yield member(server.address, *scorer.offers)
    await server.stop(grace_s=0.1)


def member(address: str, *rewards: str) -> Member:
    return Member("reward-1", "reward", address, "host", 1, 0.0, {"rewards": list(rewards)})


def spec(*rewards: dict[str, Any]) -> runspec.RunSpec:
    tasks = [{"name": f"task-{index}", "data": "train.jsonl", "reward": reward} for index, reward in enumerate(rewards)]
    return runspec.parse(
        {"name": "small", "model": {"path": "m"}, "algorithm": {"name": "dpo"}, "tasks": tasks, "steps": 20}
    )


def verifier(name: str, **options: Any) -> dict[str, Any]:
    return {"type": "verifier", "name": name, "options": options}


async def test_options_that_a_verifier_takes_pass(service: Member) -> None:
    assert {"math", "verifier:exact_match", "verifier:pattern"} <= set(service.status["rewards"])
    good = spec({"type": "math"}, verifier("exact_match", ignore_case=True), verifier("pattern", regex="^a+$"))
    await check_rewards(good, [service])


async def test_every_option_that_a_verifier_does_not_take_is_refused_by_its_path(service: Member) -> None:
    bad = spec(
        verifier("exact_match", ignorecase=True, ignore_case="perhaps"),
        {"type": "math"},
        verifier("pattern", regex="(unclosed"),
        verifier("pattern"),
    )
    with pytest.raises(InvalidSpec) as refused:
        await check_rewards(bad, [service])
    assert [problem.path for problem in refused.value.problems] == [
        "tasks.0.reward.options.ignore_case",
        "tasks.0.reward.options.ignorecase",
        "tasks.2.reward.options.regex",
        "tasks.3.reward.options.regex",
    ]
    assert refused.value.problems[0].allowed == "ignore_case: bool = False"


async def test_a_service_that_does_not_answer_refuses_nothing(tmp_path: Path, service: Member) -> None:
    gone = member(f"unix:{tmp_path}/gone.sock", "verifier:exact_match")
    await check_rewards(spec(verifier("exact_match", cold=True)), [gone])
    # but the next one is asked
    with pytest.raises(InvalidSpec):
        await check_rewards(spec(verifier("exact_match", cold=True)), [gone, service])
