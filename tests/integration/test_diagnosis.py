"""Why a run does not move, from what the members of the fleet say of themselves."""

from __future__ import annotations

from redis.asyncio import Redis

from services.coordinator.cluster.fleet import Fleet
from services.coordinator.control.diagnosis import blocked
from syncline.membership import Member

DOWN = "no reward for 12 s (groups held: 3): http://judge:8000/v1 does not answer"


def reward(id: str, **status: object) -> Member:
    return Member(id=id, role="reward", address="unix:x", host="h", pid=1, started_at=0.0, status=status)


async def reason(redis: Redis, *rewards: Member) -> str:
    fleet = Fleet(redis, load_deadline_s=10)
    fleet.roles["reward"] = list(rewards)
    return await blocked(redis, run_id="run-a", fleet=fleet, backlog={0: 0}, waiting_s=0.5, stall_after_s=60.0)


async def test_a_reward_that_is_down_is_told_at_once_with_its_cause(redis: Redis) -> None:
    down = reward("reward-1", waiting={"run-a": DOWN})
    assert await reason(redis, reward("reward-0"), down) == f"reward-1 waits: {DOWN}"


async def test_a_run_is_not_told_what_another_one_waits_for(redis: Redis) -> None:
    assert await reason(redis, reward("reward-0", waiting={"run-b": DOWN})) == ""


async def test_rewards_that_work_are_no_reason(redis: Redis) -> None:
    assert await reason(redis, reward("reward-0"), reward("reward-1")) == ""
