"""Starts the coordinator: `python -m services.coordinator`, settings from SYNCLINE_* variables."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial

from redis.asyncio import Redis

from services.coordinator.app import create_app
from services.coordinator.cluster.fleet import Fleet
from services.coordinator.cluster.pods import Picture
from services.coordinator.cluster.scaling import Autoscaled, FileScale, NoScale, Scale
from services.coordinator.cluster.takeover import take_over
from services.coordinator.control.runs import Runs
from services.coordinator.records.store import RunStore
from services.coordinator.rest import RestServer
from services.coordinator.settings import CoordinatorSettings
from syncline import lifecycle, redis_client
from syncline.cache import Cache
from syncline.lifecycle import Worker
from syncline.storage import storage_at


async def serve(settings: CoordinatorSettings) -> int:
    redis = redis_client.connect(settings.redis_url.get_secret_value())
    fleet = Fleet(redis, load_deadline_s=settings.load_deadline_s)
    runs = Runs(open_store(settings), redis=redis, fleet=fleet, settings=settings)
    async with _cluster(settings, redis, fleet.cluster) as (scale, watch):
        token = settings.token.get_secret_value()
        app = create_app(runs_=runs, fleet_=fleet, redis=redis, token=token, scale=scale)
        server = RestServer(app, host=settings.rest_host, port=settings.rest_port)
        await server.start()
        return await lifecycle.run_service(
            server=server,
            workers={"fleet": fleet.run, "runs": runs.run, **watch},
            ready=lambda: redis_client.ping(redis),
            close=redis.aclose,
            grace_s=settings.grace_s,
        )


def open_store(settings: CoordinatorSettings) -> RunStore:
    """The runs on this coordinator's disk; what they share with other services is there, too, or in an object store."""
    if not settings.checkpoint_store:
        return RunStore(settings.run_root)
    cache = Cache(settings.cache_root)
    return RunStore(
        settings.run_root, storage_of=lambda run_id: storage_at(f"{settings.checkpoint_store}/{run_id}", cache=cache)
    )


@asynccontextmanager
async def _cluster(
    settings: CoordinatorSettings, redis: Redis, picture: Picture
) -> AsyncIterator[tuple[Scale, Mapping[str, Worker]]]:
    """Who scales the generators, and the worker that follows their pods, if there are pods."""
    if not settings.kubernetes_namespace:
        yield (FileScale(settings.generators_file) if settings.generators_file else NoScale()), {}
        return
    from services.coordinator.cluster import kubernetes  # here, so that nobody else loads the client

    namespace, name = settings.kubernetes_namespace, settings.kubernetes_statefulset
    async with kubernetes.connected(settings.kubeconfig) as api:
        watch = kubernetes.PodWatch(
            api,
            picture,
            namespace=namespace,
            selector=settings.kubernetes_selector,
            gone=lambda pod: take_over(redis, pod),
        )
        if not name:
            yield NoScale(), {"pods": watch.run}
            return
        generators = kubernetes.StatefulSetScale(api, namespace, name)
        autoscaler = settings.kubernetes_autoscaler
        scale = Autoscaled(generators, autoscaler=autoscaler) if autoscaler else generators
        yield scale, {"pods": watch.run, "shortage": partial(kubernetes.watch_for_shortage, generators, picture)}


def main() -> int:
    # The coordinator holds no torch, also where torch is installed beside it: transformers, of which only the
    # tokenizers are wanted, would import it and take ten seconds and 300 MB for nothing.
    sys.modules["torch"] = None  # type: ignore[assignment]
    return lifecycle.main("coordinator", CoordinatorSettings, lambda settings: asyncio.run(serve(settings)))


if __name__ == "__main__":
    sys.exit(main())
