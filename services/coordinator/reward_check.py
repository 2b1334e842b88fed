"""Asks a reward service whether it can give the rewards of a run spec: only it knows the options of its verifiers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import structlog

from syncline.errors import FieldProblem, InvalidSpec, Unavailable
from syncline.membership import Member
from syncline.rpc import Client
from syncline.runspec import RunSpec
from syncline.v1.reward_service_pb2 import ScoreRequest
from syncline.v1.reward_service_pb2_grpc import RewardServiceStub

log = structlog.get_logger()
_DEADLINE_S = 10.0


async def check_rewards(spec: RunSpec, services: Sequence[Member]) -> None:
    """Raises InvalidSpec with every problem. Without a service that answers, nothing is found."""
    asked = [
        *((f"tasks.{index}", task.reward) for index, task in enumerate(spec.tasks)),
        *((f"evaluation.{index}", evaluation.reward) for index, evaluation in enumerate(spec.evaluation)),
    ]
    found = await asyncio.gather(
        *(
            _problems(reward.model_dump_json(), field, [member for member in services if _offers(member, reward.offer)])
            for field, reward in asked
        )
    )
    if problems := [problem for some in found for problem in some]:
        raise InvalidSpec(problems)


async def _problems(reward_json: str, field: str, services: Sequence[Member]) -> list[FieldProblem]:
    """Scores nothing by this reward, which shows whether it could."""
    for member in services:
        client = Client(member.address, peer=member.id)
        try:
            request = ScoreRequest(reward_json=reward_json)
            await client.call(client.stub(RewardServiceStub).Score, request, timeout_s=_DEADLINE_S)
            return []
        except InvalidSpec as error:
            return [replace(problem, path=f"{field}.{problem.path}") for problem in error.problems]
        except Unavailable as error:
            log.info("rewards_not_checked", error=error.message)
        finally:
            await client.close()
    return []


def _offers(member: Member, reward: str) -> bool:
    return reward in member.status.get("rewards", ())
