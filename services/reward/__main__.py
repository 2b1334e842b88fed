"""Starts the reward service: `python -m services.reward`, settings from SYNCLINE_* variables."""

from __future__ import annotations

import asyncio
import sys
from functools import partial

import structlog

from services.reward.endpoints import Endpoints
from services.reward.scorer import Scorer, rewards
from services.reward.servicer import RewardServicer
from services.reward.settings import RewardSettings
from services.reward.verifiers.pool import VerifierPool
from services.reward.worker import RewardWorker
from syncline import ids, lifecycle, redis_client, rpc
from syncline.errors import Unavailable
from syncline.membership import Registration
from syncline.v1.reward_service_pb2 import DESCRIPTOR
from syncline.v1.reward_service_pb2_grpc import add_RewardServiceServicer_to_server


async def serve(settings: RewardSettings) -> int:
    member_id = settings.member_id or ids.new_member_id("reward")
    structlog.contextvars.bind_contextvars(member=member_id)
    redis = redis_client.connect(settings.redis_url.get_secret_value())
    pool = VerifierPool(workers=settings.verifier_workers, limits=settings.limits, wall_s=settings.check_wall_s)
    endpoints = Endpoints(keys_dir=settings.keys_dir)
    scorer = Scorer(rewards(settings, pool, endpoints))
    worker = RewardWorker(
        redis,
        scorer=scorer,
        consumer=member_id,
        lease_s=settings.lease_s,
        groups_in_flight=settings.groups_in_flight,
    )
    server = rpc.Server(settings.bind, advertise=settings.advertise)
    servicer = RewardServicer(scorer, pool=pool, member_id=member_id, error=lambda: worker.trouble or pool.error)
    server.add(
        add_RewardServiceServicer_to_server, servicer, name=DESCRIPTOR.services_by_name["RewardService"].full_name
    )
    await server.start()
    registration = Registration(
        redis,
        role="reward",
        id=member_id,
        address=server.address,
        ttl_s=settings.membership_ttl_s,
        status=worker.status,
    )

    async def ready() -> None:
        if not pool.ready.is_set():
            raise Unavailable(f"the verifier is not up; {pool.error or 'it is starting'}")
        await redis_client.ping(redis)

    async def close() -> None:
        await endpoints.close()
        await redis.aclose()

    async def score_stream() -> None:
        await pool.ready.wait()  # a verifier that fails its self-test gives no verdict at all
        await worker.run()

    return await lifecycle.run_service(
        server=server,
        workers={"verifier": pool.run, "stream": score_stream, "registration": registration.run},
        ready=ready,
        drain=partial(worker.drain, finish_s=settings.finish_s),
        close=close,
        grace_s=settings.grace_s,
    )


def main() -> int:
    return lifecycle.main("reward", RewardSettings, lambda settings: asyncio.run(serve(settings)))


if __name__ == "__main__":
    sys.exit(main())
