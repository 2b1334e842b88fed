"""Starts a generator: `python -m services.inference`, settings from SYNCLINE_* variables."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from typing import Any

import structlog

from services.inference.engines import create_engine
from services.inference.generator import Generator
from services.inference.servicer import InferenceServicer
from services.inference.settings import InferenceSettings
from services.inference.worker import Worker
from syncline import lifecycle, redis_client, rpc, wanted
from syncline.cache import Cache
from syncline.ids import new_member_id
from syncline.membership import Registration
from syncline.v1.inference_service_pb2 import DESCRIPTOR
from syncline.v1.inference_service_pb2_grpc import add_InferenceServiceServicer_to_server


async def serve(settings: InferenceSettings) -> int:
    member_id = settings.member_id or new_member_id("inference")
    structlog.contextvars.bind_contextvars(member=member_id)
    redis = redis_client.connect(settings.redis_url.get_secret_value())
    engine = create_engine(settings.engine, settings.engine_options)
    generator = Generator(engine, cache=Cache(settings.cache_root), groups_deadline_s=settings.groups_deadline_s)
    worker = Worker(generator, redis, member_id=member_id, lease_s=settings.lease_s)
    server = rpc.Server(settings.bind, advertise=settings.advertise)
    server.add(
        add_InferenceServiceServicer_to_server,
        InferenceServicer(generator, worker, member_id=member_id),
        name=DESCRIPTOR.services_by_name["InferenceService"].full_name,
    )
    await server.start()
    registration = Registration(
        redis,
        role="inference",
        id=member_id,
        address=server.address,
        ttl_s=settings.membership_ttl_s,
        status=lambda: status(generator),
    )
    generator.on_change = registration.beat_soon

    async def ready() -> None:
        await redis_client.ping(redis)
        await generator.check(wanted=await wanted.announced(redis))

    async def drain() -> None:
        await worker.drain(finish_s=settings.finish_s)

    async def close() -> None:
        await generator.close()
        await redis.aclose()

    return await lifecycle.run_service(
        server=server,
        workers={"worker": worker.run, "registration": registration.run},
        ready=ready,
        drain=drain,
        close=close,
        grace_s=settings.grace_s,
    )


def status(generator: Generator) -> Mapping[str, Any]:
    """What the generator shows of itself in the fleet."""
    held = generator.held
    return {
        "engine": generator.engine.name,
        "phase": generator.phase,
        "run_id": held.run_id if held else None,
        "version": held.version if held else None,
        "manifest_digest": held.manifest_digest if held else None,
        "running": generator.running,
        "groups_total": generator.groups_total,
        "tokens_total": generator.tokens_total,
        "error": generator.error,
    }


def main() -> int:
    return lifecycle.main("inference", InferenceSettings, lambda settings: asyncio.run(serve(settings)))


if __name__ == "__main__":
    sys.exit(main())
