"""A run that was submitted before any reward service was there: its rewards are checked when one is."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from services.coordinator.cluster.fleet import Fleet
from services.coordinator.control.runs import Runs
from services.coordinator.records.store import RunStore
from services.coordinator.settings import CoordinatorSettings
from services.reward.endpoints import Endpoints
from services.reward.scorer import Scorer, rewards
from services.reward.servicer import RewardServicer
from services.reward.settings import RewardSettings
from services.reward.verifiers.pool import VerifierPool
from syncline import rpc
from syncline.membership import Registration
from syncline.state import RunState
from syncline.v1.reward_service_pb2_grpc import add_RewardServiceServicer_to_server
from tests.waiting import until

SEED_MODEL = Path("services/local/quickstart/seed-model")


@asynccontextmanager
async def coordinating(project: Path, redis: Redis) -> AsyncIterator[Runs]:
    """A coordinator at work, without a learner."""
    settings = CoordinatorSettings(run_root=project / "runs", model_root=project, data_root=project)
    fleet = Fleet(redis, load_deadline_s=10, poll_s=0.05)
    runs = Runs(RunStore(settings.run_root), redis=redis, fleet=fleet, settings=settings)
    working = [asyncio.create_task(fleet.run()), asyncio.create_task(runs.run())]
    try:
        yield runs
    finally:
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)


@asynccontextmanager
async def rewarding(folder: Path, redis: Redis) -> AsyncIterator[None]:
    """A reward service that registers."""
    settings = RewardSettings()
    pool = VerifierPool(workers=1, limits=settings.limits, wall_s=60.0)
    verifying = asyncio.create_task(pool.run())
    await asyncio.wait_for(pool.ready.wait(), timeout=60)
    scorer = Scorer(rewards(settings, pool, Endpoints()))
    server = rpc.Server(f"unix:{folder}/reward.sock")
    servicer = RewardServicer(scorer, pool=pool, member_id="reward-0", error=str)
    server.add(add_RewardServiceServicer_to_server, servicer, name="syncline.v1.RewardService")
    try:
        await server.start()
        await Registration(
            redis,
            role="reward",
            id="reward-0",
            address=server.address,
            ttl_s=6.0,
            status=lambda: {"rewards": scorer.offers},
        ).beat()
        yield
    finally:
        await server.stop(grace_s=0.1)
        verifying.cancel()
        await asyncio.gather(verifying, return_exceptions=True)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    shutil.copytree(SEED_MODEL, tmp_path / "model")
    (tmp_path / "train.jsonl").write_text(
        '{"prompt": "12+34=", "answer": "46"}\n\n{"prompt": "1+1=", "answer": "$$"}\n'
    )
    return tmp_path


def spec(**reward: Any) -> dict[str, Any]:
    task = {"name": "math", "data": "train.jsonl", "reward": reward}
    return {"name": "small", "model": {"path": "model"}, "algorithm": {"name": "dpo"}, "steps": 12, "tasks": [task]} | {
        "generation": {"max_tokens": 5}
    }


async def test_an_unknown_verifier_fails_the_run_when_a_reward_service_comes(project: Path, redis: Redis) -> None:
    async with coordinating(project, redis) as runs:
        run = await runs.submit(spec(type="verifier", name="nope"))
        assert [one["path"] for one in run.record.warnings] == ["rewards"]
        await until(lambda: run.state is RunState.STARTING, what="the run to begin")
        async with rewarding(project, redis):
            await until(lambda: run.state.terminal, what="the run to end")
        assert run.state is RunState.FAILED
        assert "no running reward service offers 'verifier:nope'" in run.record.reason
        await until((run.folder / "summary.json").is_file, what="its summary")


async def test_the_warning_goes_when_the_rewards_are_checked_and_bad_gold_answers_are_told(
    project: Path, redis: Redis
) -> None:
    async with coordinating(project, redis) as runs:
        run = await runs.submit(spec(type="math"))
        assert [one["path"] for one in run.record.warnings] == ["rewards"]
        async with rewarding(project, redis):
            await until(lambda: [one["path"] for one in run.record.warnings] != ["rewards"], what="the check")
        (warning,) = run.record.warnings
        assert (warning["path"], warning["problem"]) == (
            "tasks.0.data",
            "gold answers that math cannot read, in lines 3 ('$$')",
        )
        assert not run.state.terminal
