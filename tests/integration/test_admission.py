"""Admission against a real server that loses its data at the worst moments."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from services.coordinator.control.admission import Admission
from services.coordinator.work.prompt_file import Row
from services.coordinator.work.prompts import PromptPlan
from services.coordinator.work.sources import LivePrompts
from syncline import keys, runspec
from syncline.errors import Unavailable

RUN = "run-1"
SPEC = runspec.parse(
    {
        "name": "admission",
        "model": {"path": "m"},
        "algorithm": {"name": "dpo"},
        "sync": {"period": 4},
        "steps": 8,
        "prompts_per_step": 3,
        "tasks": [{"name": "add", "data": "d.jsonl", "reward": {"type": "math"}}],
    }
)


@pytest.fixture
def admission(redis: Redis) -> Admission:
    rows = {"add": [Row(f"{n}+1=", str(n + 1)) for n in range(50)]}
    plan = PromptPlan(SPEC, rows, encode=lambda prompt: (tuple(str(prompt).encode()), str(prompt)), context=10_000)
    return Admission(redis, run_id=RUN, schedule=SPEC.schedule(), source=LivePrompts(SPEC, plan, run_id=RUN))


async def test_what_is_admitted_is_known_as_such(redis: Redis, admission: Admission) -> None:
    await admission.start(0)
    assert not await admission.lost()
    assert await admission.admit(learner_step=0, latest_version=0) == range(4)
    assert not await admission.lost()
    assert await redis.xlen(keys.prompts(RUN, 0)) == 12


async def test_data_lost_before_anything_was_admitted_is_noticed(redis: Redis, admission: Admission) -> None:
    await admission.start(0)
    await redis.flushall()
    assert await admission.lost()


async def test_data_lost_just_before_an_admission_is_not_taken_for_admitted(redis: Redis, admission: Admission) -> None:
    """The new server knows of no open run, so it takes no prompt; it must not be told that it did."""
    await admission.start(0)
    assert not await admission.lost()
    await redis.flushall()
    with pytest.raises(Unavailable, match="lost its data"):
        await admission.admit(learner_step=0, latest_version=0)
    assert await admission.lost()
    # And after a new start the same steps are admitted again
    await admission.start(0)
    assert await admission.admit(learner_step=0, latest_version=0) == range(4)
    assert await redis.xlen(keys.prompts(RUN, 0)) == 12


async def test_a_server_that_came_back_older_is_noticed(redis: Redis, admission: Admission) -> None:
    """An append-only file may lack the last second; what was admitted in it is gone, and the rest is there."""
    await admission.start(0)
    await admission.admit(learner_step=0, latest_version=0)
    await redis.set(keys.admitted(RUN), 3)
    assert await admission.lost()
