"""python -m services.learner: serve LearnerService. Under torchrun, rank 0 serves and the others follow it."""

from __future__ import annotations

import asyncio
import os
import sys
from functools import partial

import structlog
import transformers

from services.learner.crew import Crew
from services.learner.follower import follow
from services.learner.learner import Learner
from services.learner.meeting import join
from services.learner.ranks import Ranks
from services.learner.servicer import LearnerServicer
from services.learner.settings import LearnerSettings
from syncline import ids, lifecycle, redis_client
from syncline.membership import Registration
from syncline.rpc import Server
from syncline.v1 import learner_service_pb2, learner_service_pb2_grpc


def run(settings: LearnerSettings) -> int:
    """Meet the other ranks, if there are any, and lead or follow them; returns the exit code."""
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    ranks = join(device=settings.torch_device(), timeout_s=settings.rank_timeout_s)
    return follow(settings, ranks) if ranks.rank > 0 else asyncio.run(serve(settings, ranks))


async def serve(settings: LearnerSettings, ranks: Ranks) -> int:
    """Run until a signal, or until a rank is lost; returns the exit code."""
    crew = Crew(ranks, timeout_s=settings.rank_timeout_s) if ranks.size > 1 else None
    if crew is not None:
        await crew.start()
    member_id = settings.member_id or ids.new_member_id("learner")
    structlog.contextvars.bind_contextvars(member=member_id)
    redis = redis_client.connect(settings.redis_url.get_secret_value())
    learner = Learner(settings, redis=redis, id=member_id, crew=crew)
    server = Server(settings.bind, advertise=settings.advertise)
    server.add(
        learner_service_pb2_grpc.add_LearnerServiceServicer_to_server,
        LearnerServicer(learner),
        name=learner_service_pb2.DESCRIPTOR.services_by_name["LearnerService"].full_name,
    )
    await server.start()
    registration = Registration(
        redis,
        role="learner",
        id=learner.id,
        address=server.address,
        ttl_s=settings.membership_ttl_s,
        status=learner.member_status,
    )
    workers = {"membership": registration.run}
    if crew is not None:
        workers["ranks"] = crew.watch

    async def close() -> None:
        if crew is not None:
            await crew.close()
        await redis.aclose()

    return await lifecycle.run_service(
        server=server,
        workers=workers,
        ready=partial(redis_client.ping, redis),
        drain=learner.drain,
        close=close,
        grace_s=settings.grace_s,
    )


def main() -> int:
    follows = int(os.environ.get("RANK", "0")) > 0
    fixed = {"metrics_bind": ""} if follows else {}  # ranks share an environment, and rank 0 tells the metrics
    code = lifecycle.main("learner", LearnerSettings, run, **fixed)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.stderr.flush()
        os._exit(code)  # a thread may hang in a collective with a rank that is gone
    return code


if __name__ == "__main__":
    sys.exit(main())
