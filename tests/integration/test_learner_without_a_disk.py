"""A run whose storage is an object store: an attempt on an empty disk goes on where the last one was."""

from __future__ import annotations

from pathlib import Path

import pytest
from redis.asyncio import Redis

from services.learner import state
from syncline import published, recording, standings
from syncline.cache import Cache
from syncline.storage import Storage, storage_at
from tests.integration.learner_ranks import torchrun
from tests.integration.learner_world import (
    digest_of,
    final_digest,
    groups_of,
    kinds,
    learner_world,
    spec_of,
    steps_of,
    until_idle,
)
from tests.integration.tiny_models import make_tiny_model
from tests.object_store import ObjectStore, free_port


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_tiny_model(tmp_path / "model", seed=3)


@pytest.fixture
def uri(object_store: ObjectStore) -> str:
    return f"{object_store.bucket()}/runs/run-1"


@pytest.fixture
def storage(uri: str, tmp_path: Path) -> Storage:
    """The run's storage as the test sees it, with a cache of its own."""
    return storage_at(uri, cache=Cache(tmp_path / "test-cache"))


@pytest.mark.parametrize("killed_after", ["step 1", "published 2", "step 3", "published 4"])
async def test_a_learner_on_an_empty_disk_ends_with_the_same_bytes_as_one_on_a_shared_disk(
    model: Path, redis: Redis, tmp_path: Path, object_store: ObjectStore, uri: str, storage: Storage, killed_after: str
) -> None:
    spec = spec_of(model, steps=5, reference={"sync": True})
    groups = groups_of(spec, range(5))
    undisturbed = await digest_of(redis, tmp_path / "shared-disk", spec, groups)
    object_store.put_folder(f"{uri}-seed", model)
    remote = spec.model_copy(update={"model": spec.model.model_copy(update={"path": f"{uri}-seed"})})

    # Given an attempt whose client went away somewhere
    async with learner_world(redis, tmp_path / "unused", uri=uri, cache_root=tmp_path / "first-disk") as world:
        await world.add(groups)
        await world.train(remote, until=lambda event: kinds([event]) == [killed_after])
        await until_idle(world)
    # When another learner, with an empty disk, takes the run over
    async with learner_world(redis, tmp_path / "unused", uri=uri, cache_root=tmp_path / "second-disk") as world:
        await world.add(groups)
        events = await world.train(remote)
    # Then
    first = events[0].loaded.first_step
    assert first % 2 == 0
    assert [report.step for report in steps_of(events)] == list(range(first, 5))
    assert final_digest(events) == undisturbed
    assert not (tmp_path / "unused").exists()
    assert recording.recorded_steps(storage) == [0, 1, 2, 3, 4]
    assert len(list(recording.read_step(storage, 4))) == 4


async def test_old_versions_and_states_go_from_the_store_but_not_those_in_use(
    model: Path, redis: Redis, tmp_path: Path, uri: str, storage: Storage
) -> None:
    spec = spec_of(
        model,
        steps=12,
        sync={"period": 1},
        evaluation=[{"name": "held-out", "data": "unused", "every": 4}],
        checkpoints={"every": 5, "keep": 2},
    )
    best = standings.BestVersion(3, "held-out", "score", 0.5)
    standings.write(storage, standings.Standings({"held-out": frozenset({0, 4})}, best))
    async with learner_world(redis, tmp_path / "unused", uri=uri, cache_root=tmp_path / "cache") as world:
        await world.train_on(spec, groups_of(spec, range(12)))
    assert published.versions(storage) == [0, 3, 8, 10, 11, 12]
    assert state.saved_steps(storage) == [10, 12]
    left = [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.name != ".lock"]
    assert left == [], "what was uploaded takes no room on the learner's disk"


async def test_a_damaged_state_in_the_store_is_skipped(
    model: Path, redis: Redis, tmp_path: Path, object_store: ObjectStore, uri: str
) -> None:
    spec = spec_of(model, steps=4, checkpoints={"every": 2, "keep": 3})
    groups = groups_of(spec, range(4))
    async with learner_world(redis, tmp_path / "unused", uri=uri, cache_root=tmp_path / "first-disk") as world:
        ended = final_digest(await world.train_on(spec, groups))
    url = f"{uri}/{state.name_of(4)}/tensors-00000.safetensors"
    content = bytearray(object_store.get(url))
    content[-10] ^= 1
    object_store.put(url, bytes(content))
    async with learner_world(redis, tmp_path / "unused", uri=uri, cache_root=tmp_path / "second-disk") as world:
        await world.add(groups)
        events = await world.train(spec)
    assert events[0].loaded.first_step == 2
    assert final_digest(events) == ended


async def test_two_ranks_save_their_shards_to_the_store_and_go_on_from_them(
    model: Path, redis: Redis, redis_url: str, tmp_path: Path, object_store: ObjectStore, uri: str, storage: Storage
) -> None:
    object_store.put_folder(f"{uri}-seed", model)
    spec = spec_of(model, steps=4, model={"path": f"{uri}-seed"})
    groups = groups_of(spec, range(4))
    async with torchrun(redis, redis_url, tmp_path, ranks=2, cache_root=str(tmp_path / "cache")) as learner:
        ended = final_digest(await learner.train(spec, groups, run_dir=uri))
        manifest = storage.manifest(state.name_of(4))
        assert {name.partition("-tensors")[0] for name in manifest.files if name.startswith("rank")} == {
            "rank-00000",
            "rank-00001",
        }
        copies = [len(list(copy.glob("*.safetensors"))) for copy in (tmp_path / "cache" / "models").glob("[!.]*")]
        assert sorted(copies) == [0, 1], "rank 0 alone has use for the weights"
        storage.delete([published.name_of(4), state.name_of(4)])
        again = await learner.train(spec, groups, run_dir=uri)
    assert again[0].loaded.first_step == 2
    assert final_digest(again) == ended


async def test_a_store_that_is_away_ends_the_attempt_and_not_the_run(
    model: Path, redis: Redis, tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import grpc

    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{free_port()}")
    async with learner_world(redis, tmp_path / "unused", uri=uri, cache_root=tmp_path / "cache") as world:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await world.train(spec_of(model))
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "does not answer after 4 attempts" in (raised.value.details() or "")


async def test_a_store_that_refuses_fails_the_run_with_what_to_do(model: Path, redis: Redis, tmp_path: Path) -> None:
    uri = "s3://no-such-bucket/runs/run-1"
    async with learner_world(redis, tmp_path / "unused", uri=uri, cache_root=tmp_path / "cache") as world:
        (event,) = await world.train(spec_of(model))
    assert event.failed.code == "store_refused"
    assert "there is no bucket 'no-such-bucket'; make it" in event.failed.message
