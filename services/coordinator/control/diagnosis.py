"""Says in words why a run does not move."""

from __future__ import annotations

from collections.abc import Mapping

from redis.asyncio import Redis

from services.coordinator.cluster.fleet import Fleet
from syncline import keys


async def blocked(
    redis: Redis, *, run_id: str, fleet: Fleet, backlog: Mapping[int, int], waiting_s: float, stall_after_s: float
) -> str:
    """What the run waits for, or "" while there is nothing to say.

    Rewards that say themselves that they wait, and a missing or failing fleet, are told at once;
    silence is told after `stall_after_s`, with where the work lies.
    """
    for member in fleet.roles["reward"]:
        if waiting := member.status.get("waiting", {}).get(run_id):
            return f"{member.id} waits: {waiting}"
    work = sum(backlog.values())
    handle = fleet.wanted
    if work and handle is not None and not fleet.holders(handle):
        troubles = fleet.troubles()
        if not fleet.generators:
            if waiting_s > min(10.0, stall_after_s):
                return f"no generator is alive; {work} prompts wait for version {handle.version}" + _because(
                    fleet.pods_say("inference")
                )
        elif len(troubles) == len(fleet.generators):
            return f"no generator could load version {handle.version}: " + "; ".join(sorted(set(troubles.values())))
    loading = any(member.status.get("phase") == "loading" for member in fleet.roles["inference"])
    if waiting_s < stall_after_s or loading:  # a load has a deadline of its own; the first one starts the engine
        return ""
    rollouts = int(await redis.xlen(keys.ROLLOUTS))
    scored = int(await redis.xlen(keys.scored(run_id)))
    if rollouts and not fleet.roles["reward"]:
        return f"no reward service is alive; {rollouts} groups wait to be scored" + _because(fleet.pods_say("reward"))
    return (
        f"no progress for {waiting_s:.0f} s; waiting: {work} prompts for generators, "
        f"{rollouts} groups for rewards, {scored} groups for the learner" + learner_says(fleet)
    )


def waits_for_a_learner(fleet: Fleet) -> str:
    """What a run says that has not found its learner."""
    return "waiting for a learner to register" + _because(fleet.pods_say("learner"))


def _because(cause: str) -> str:
    return f": {cause}" if cause else ""


def learner_says(fleet: Fleet) -> str:
    """What the learner itself waits for, where it says so."""
    details = [str(member.status["detail"]) for member in fleet.roles["learner"] if member.status.get("detail")]
    return f" ({'; '.join(details)})" if details else ""
