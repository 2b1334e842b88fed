"""python -m services.learner: serve LearnerService. Under torchrun, rank 0 serves and the others follow it."""

from __future__ import annotations

import asyncio
import os
import sys
from functools import partial

import transformers

from services.learner.crew import Crew
from services.learner.follower import follow
from services.learner.learner import Learner
from services.learner.meeting import join
from services.learner.ranks import Ranks
from services.learner.servicer import LearnerServicer
from services.learner.settings import LearnerSettings
from syncline import ids, streams, telemetry
from syncline.lifecycle import run_service
from syncline.membership import Registration
from syncline.rpc import Server
from syncline.settings import load
from syncline.v1 import learner_service_pb2, learner_service_pb2_grpc


async def serve(settings: LearnerSettings, ranks: Ranks) -> int:
    """Run until a signal, or until a rank is lost; returns the exit code."""
    crew = Crew(ranks, timeout_s=settings.rank_timeout_s) if ranks.size > 1 else None
    if crew is not None:
        await crew.start()
    redis = streams.connect(settings.redis_url.get_secret_value())
    learner = Learner(settings, redis=redis, id=settings.member_id or ids.new_member_id("learner"), crew=crew)
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
        host=settings.hostname(),
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

    return await run_service(
        server=server,
        workers=workers,
        ready=partial(streams.ping, redis),
        drain=learner.drain,
        close=close,
        grace_s=settings.grace_s,
    )


def main() -> None:
    settings = load(LearnerSettings)
    follows = int(os.environ.get("RANK", "0")) > 0
    telemetry.setup("learner", settings.model_copy(update={"metrics_bind": ""}) if follows else settings)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    ranks = join(device=settings.torch_device(), timeout_s=settings.rank_timeout_s)
    if ranks.size == 1:
        sys.exit(asyncio.run(serve(settings, ranks)))
    code = follow(settings, ranks) if follows else asyncio.run(serve(settings, ranks))
    sys.stderr.flush()
    os._exit(code)  # a thread may hang in a collective with a rank that is gone


if __name__ == "__main__":
    main()
