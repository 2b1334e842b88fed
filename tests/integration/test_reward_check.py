"""Submission asks a real reward service about the rewards of a run spec."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.coordinator.submission.reward_check import UNCHECKED, Checked, check_rewards
from services.coordinator.work.prompt_file import Row
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
    verifying = asyncio.create_task(pool.run())
    await asyncio.wait_for(pool.ready.wait(), timeout=60)
    scorer = Scorer(rewards(settings, pool, Endpoints()))
    server = rpc.Server(f"unix:{tmp_path}/s.sock")
    servicer = RewardServicer(scorer, pool=pool, member_id="reward-1", error=str)
    server.add(add_RewardServiceServicer_to_server, servicer, name="syncline.v1.RewardService")
    await server.start()
    yield member(server.address, *scorer.offers)
    await server.stop(grace_s=0.1)
    verifying.cancel()
    await asyncio.gather(verifying, return_exceptions=True)


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
    assert await check_rewards(good, [service], rows={}) == Checked([], complete=True)


async def test_every_option_that_a_verifier_does_not_take_is_refused_by_its_path(service: Member) -> None:
    bad = spec(
        verifier("exact_match", ignorecase=True, ignore_case="perhaps"),
        {"type": "math"},
        verifier("pattern", regex="(unclosed"),
        verifier("pattern"),
    )
    with pytest.raises(InvalidSpec) as refused:
        await check_rewards(bad, [service], rows={})
    assert [problem.path for problem in refused.value.problems] == [
        "tasks.0.reward.options.ignore_case",
        "tasks.0.reward.options.ignorecase",
        "tasks.2.reward.options.regex",
        "tasks.3.reward.options.regex",
    ]
    assert refused.value.problems[0].allowed == "ignore_case: bool = False"


async def test_a_service_that_does_not_answer_refuses_nothing_and_that_is_said(tmp_path: Path, service: Member) -> None:
    gone = member(f"unix:{tmp_path}/gone.sock", "verifier:exact_match")
    cold = spec(verifier("exact_match", cold=True))
    for services in ([gone], []):
        assert await check_rewards(cold, services, rows={}) == Checked([UNCHECKED], complete=False)
    # but the next one is asked
    with pytest.raises(InvalidSpec):
        await check_rewards(cold, [gone, service], rows={})


async def test_a_reward_that_nobody_offers_is_refused(service: Member) -> None:
    with pytest.raises(InvalidSpec, match=r"tasks.1.reward: no running reward service offers 'verifier:nope'"):
        await check_rewards(spec({"type": "math"}, verifier("nope")), [service], rows={})


def rows(*answers: str) -> dict[str, list[Row]]:
    return {"tasks.0": [Row("q", answer, line) for line, answer in enumerate(answers, start=1)]}


@pytest.mark.parametrize("reward", [verifier("exact_match"), verifier("math"), {"type": "math"}], ids=str)
async def test_rows_without_the_gold_answer_that_a_verifier_needs_are_refused(
    service: Member, reward: dict[str, Any]
) -> None:
    with pytest.raises(InvalidSpec, match=r"tasks.0.data: line 2 has no `answer`, and .* needs one"):
        await check_rewards(spec(reward), [service], rows=rows("1", " ", "3"))


async def test_a_verifier_that_needs_no_gold_answer_takes_rows_without(service: Member) -> None:
    checked = await check_rewards(spec(verifier("pattern", regex="^a+$")), [service], rows=rows("", ""))
    assert checked == Checked([], complete=True)


async def test_gold_answers_that_a_verifier_cannot_read_are_a_warning_with_their_lines(service: Member) -> None:
    golds = [str(number) for number in range(300)]
    golds[6], golds[280] = r"\boxed{}", "$$"
    checked = await check_rewards(spec({"type": "math"}), [service], rows=rows(*golds))
    (warning,) = checked.warnings
    assert checked.complete
    assert warning.path == "tasks.0.data"
    assert warning.problem == r"gold answers that math cannot read, in lines 7 ('\\boxed{}'), 281 ('$$')"


async def test_only_the_first_few_bad_gold_answers_are_looked_for(service: Member) -> None:
    checked = await check_rewards(
        spec({"type": "math"}), [service], rows=rows(*("$" + " " * i + "$" for i in range(40)))
    )
    (warning,) = checked.warnings
    assert warning.problem.count("('$") == 5
    assert warning.problem.endswith(", and perhaps more")
