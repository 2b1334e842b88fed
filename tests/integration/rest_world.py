"""A coordinator behind its REST API, over real Redis, and a folder of what runs read."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from redis.asyncio import Redis

from services.coordinator.app import create_app
from services.coordinator.cluster.fleet import Fleet
from services.coordinator.control.runs import Runs
from services.coordinator.records.store import RunStore
from services.coordinator.settings import CoordinatorSettings

SEED_MODEL = Path("services/local/quickstart/seed-model")


def spec(**changes: Any) -> dict[str, Any]:
    """A run spec of the folder that the fixture `project` makes."""
    return {
        "name": "small",
        "model": {"path": "model"},
        "algorithm": {"name": "dpo"},
        "sync": {"period": 2},
        "steps": 4,
        "generation": {"max_tokens": 5},
        "tasks": [{"name": "math", "data": "train.jsonl", "reward": {"type": "math"}}],
        **changes,
    }


class serve:
    """A coordinator without its workers, so that what is submitted stays pending."""

    def __init__(self, project: Path, redis: Redis, *, token: str = "") -> None:
        settings = CoordinatorSettings(run_root=project / "runs", model_root=project, data_root=project)
        fleet = Fleet(redis, load_deadline_s=10)
        self.runs = Runs(RunStore(settings.run_root), redis=redis, fleet=fleet, settings=settings)
        app = create_app(runs_=self.runs, fleet_=fleet, redis=redis, token=token)
        self._client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1")

    async def __aenter__(self) -> httpx.AsyncClient:
        return await self._client.__aenter__()

    async def __aexit__(self, *error: object) -> None:
        await self._client.aclose()


@asynccontextmanager
async def serving(project: Path, redis: Redis) -> AsyncIterator[tuple[httpx.AsyncClient, Runs]]:
    """The same, with its runs at hand."""
    server = serve(project, redis)
    async with server as client:
        yield client, server.runs


async def start_from(api: httpx.AsyncClient, checkpoint: str) -> httpx.Response:
    """Submit a run from a checkpoint of another."""
    return await api.post("/v1/runs", json=spec(model={"path": f"run://{checkpoint}"}))


async def says(refused: httpx.Response, problem: str) -> None:
    """The refusal is one of a field, for this reason."""
    assert refused.status_code == 422
    assert problem in refused.json()["errors"][0]["problem"]
