"""python -m services.learner: serve LearnerService."""

from __future__ import annotations

import asyncio
import sys
from functools import partial

import transformers

from services.learner.learner import Learner
from services.learner.servicer import LearnerServicer
from services.learner.settings import LearnerSettings
from syncline import ids, streams, telemetry
from syncline.lifecycle import run_service
from syncline.membership import Registration
from syncline.rpc import Server
from syncline.settings import load
from syncline.v1 import learner_service_pb2, learner_service_pb2_grpc


async def serve(settings: LearnerSettings) -> int:
    """Run until a signal; returns the exit code."""
    redis = streams.connect(settings.redis_url.get_secret_value())
    learner = Learner(settings, redis=redis, id=settings.member_id or ids.new_member_id("learner"))
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
    return await run_service(
        server=server,
        workers={"membership": registration.run},
        ready=partial(streams.ping, redis),
        drain=learner.drain,
        close=redis.aclose,
        grace_s=settings.grace_s,
    )


def main() -> None:
    settings = load(LearnerSettings)
    telemetry.setup("learner", settings)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    sys.exit(asyncio.run(serve(settings)))


if __name__ == "__main__":
    main()
