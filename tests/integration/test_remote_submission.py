"""A run whose model and prompts lie in an object store, from its submission to another life of the coordinator."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from services.coordinator.cluster.fleet import Fleet
from services.coordinator.control.runs import Runs
from services.coordinator.records.store import RunStore
from services.coordinator.settings import CoordinatorSettings
from syncline.errors import InvalidSpec
from syncline.state import RunState
from tests.object_store import ObjectStore, free_port

SEED_MODEL = Path("services/local/quickstart/seed-model")
ROWS = b'{"prompt": "12+34=", "answer": "46"}\n' * 3


def spec(bucket: str, **changes: Any) -> dict[str, Any]:
    return {
        "name": "small",
        "model": {"path": f"{bucket}/models/seed"},
        "algorithm": {"name": "dpo"},
        "sync": {"period": 2},
        "steps": 4,
        "generation": {"max_tokens": 5},
        "tasks": [{"name": "math", "data": f"{bucket}/data/train.jsonl", "reward": {"type": "math"}}],
        **changes,
    }


@pytest.fixture
def bucket(object_store: ObjectStore) -> str:
    url = object_store.bucket()
    object_store.put_folder(f"{url}/models/seed", SEED_MODEL)
    object_store.put(f"{url}/data/train.jsonl", ROWS)
    return url


def coordinator(folder: Path, redis: Redis, bucket: str, *, disk: str = "disk") -> Runs:
    """One life of a coordinator; its records outlive it, its `disk` does not."""
    settings = CoordinatorSettings(
        run_root=folder / "records", cache_root=folder / disk, remote_prefixes=f"{bucket}/models,{bucket}/data"
    )
    fleet = Fleet(redis, load_deadline_s=10)
    return Runs(RunStore(settings.run_root), redis=redis, fleet=fleet, settings=settings)


@asynccontextmanager
async def at_work(runs: Runs) -> AsyncIterator[None]:
    task = asyncio.create_task(runs.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_run_is_taken_up_again_when_the_store_is_back(
    tmp_path: Path, redis: Redis, object_store: ObjectStore, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted = await coordinator(tmp_path, redis, bucket).submit(spec(bucket))
    assert submitted.spec.model.path == f"{bucket}/models/seed"
    assert not list((tmp_path / "disk").rglob("*.safetensors")), "the coordinator has no use for weights"

    # Given another life of the coordinator, on another disk, while the store is away
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{free_port()}")
    runs = coordinator(tmp_path, redis, bucket, disk="another-disk")
    run = runs.store.get(submitted.id)
    async with at_work(runs), asyncio.timeout(60):
        while "does not answer" not in run.record.reason:
            await asyncio.sleep(0.05)
        assert run.state is RunState.PENDING
        # When it is back
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", object_store.endpoint)
        while run.state is RunState.PENDING:
            await asyncio.sleep(0.05)
        assert run.state is RunState.STARTING, run.record.reason


@pytest.mark.parametrize(
    ("changes", "path", "says"),
    [
        ({"model": {"path": "{bucket}/models/other"}}, "model.path", "has no config.json"),
        ({"model": {"path": "{bucket}/secrets/seed"}}, "model.path", "SYNCLINE_REMOTE_PREFIXES"),
        ({"rollouts": {"from": "{bucket}/data/missing.jsonl"}}, "rollouts.from", "missing.jsonl does not exist"),
        ({"rollouts": {"from": "{bucket}/data/train.jsonl"}}, "rollouts.from", "train.jsonl line 1"),
        ({"evaluation": [{"name": "e", "data": "{bucket}/data/odd.txt"}]}, "evaluation.0.data", "ends in '.txt'"),
    ],
)
async def test_what_cannot_be_read_from_the_store_is_refused_by_its_field(
    tmp_path: Path, redis: Redis, object_store: ObjectStore, bucket: str, changes: dict[str, Any], path: str, says: str
) -> None:
    object_store.put(f"{bucket}/data/odd.txt", b"")
    changes = json.loads(json.dumps(changes).replace("{bucket}", bucket))
    if path == "rollouts.from":
        changes["sync"] = {"period": "never"}
    with pytest.raises(InvalidSpec) as refused:
        await coordinator(tmp_path, redis, bucket).submit(spec(bucket, **changes))
    (problem,) = refused.value.problems
    assert problem.path == path
    assert says in problem.problem
    assert not list((tmp_path / "records").iterdir()), "nothing was started"
