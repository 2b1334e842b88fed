"""Full disks and files that cannot be read: a clear word, and the checkpoint before stays usable."""

from __future__ import annotations

import os
import resource
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from services.learner import state
from syncline import checkpoints, published
from syncline.storage import FolderStorage
from syncline.v1.learner_service_pb2 import TrainResponse
from tests.chaos.small_disk import small_disk
from tests.integration.learner_world import (
    RUN,
    World,
    digest_of,
    final_digest,
    groups_of,
    kinds,
    learner_world,
    spec_of,
    steps_of,
    version_file,
    versions_on_disk,
)
from tests.integration.tiny_models import make_tiny_model

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("seed"), seed=0, hidden=16, layers=1, heads=1)


@pytest.fixture
async def world(redis: Redis, tmp_path: Path) -> AsyncIterator[World]:
    async with learner_world(redis, tmp_path / "run") as world:
        yield world


def assert_usable(world: World, *, step: int) -> None:
    """The state before `step` and the version of that number are whole, and nothing half-written lies beside them."""
    state.verify(FolderStorage(world.run_dir), step, run_id=RUN)
    checkpoints.verify_folder(world.run_dir / published.name_of(step))
    assert [path.name for kind in ("state", "checkpoints") for path in (world.run_dir / kind).glob(".*")] == []


@pytest.mark.parametrize("what", ["version", "state"])
async def test_a_full_disk_fails_the_run_with_a_clear_word_and_freed_space_lets_it_end_with_the_same_bytes(
    model: Path, redis: Redis, tmp_path: Path, what: str
) -> None:
    spec = spec_of(model, rollouts={"record": False})  # so that the publication is the first to want room
    groups = groups_of(spec, range(4))
    undisturbed = await digest_of(redis, tmp_path / "a", spec, groups)

    with small_disk(tmp_path / "disk", megabytes=4) as disk:
        async with learner_world(redis, disk.folder / "run") as world:
            # Given version 2 and its state, and a disk with no room for the next version, or for that and its state
            await world.add(groups_of(spec, range(3)))
            events: list[TrainResponse] = []
            async for event in world.stub.Train(world.request(spec)):
                events.append(event)
                if kinds([event]) == ["step 2"]:
                    room = _size(world.run_dir / published.name_of(2)) + 32_768
                    disk.fill(but=room if what == "state" else 0)
                    await world.add(groups_of(spec, [3]))
            # Then the attempt ends with a word, and what was saved is whole
            assert kinds(events)[-1] == "failed checkpoint_error"
            assert ("published 4" in kinds(events)) is (what == "state")
            assert "No space left on device" in events[-1].failed.message
            assert "free space" in events[-1].failed.message
            assert_usable(world, step=2)
            # And when there is space again, the run goes on from there
            disk.empty()
            await redis.flushall()
            events = await world.train_on(spec, groups)
            assert kinds(events)[0] == "loaded 2"
            assert final_digest(events) == undisturbed


async def test_a_file_that_may_not_grow_further_is_as_good_as_a_full_disk(model: Path, world: World) -> None:
    """The same with a limit of the kernel on file sizes, which needs no rights."""
    spec = spec_of(model)
    await world.add(groups_of(spec, range(3)))
    events: list[TrainResponse] = []
    with _file_size_limit() as limit:
        async for event in world.stub.Train(world.request(spec)):
            events.append(event)
            if kinds([event]) == ["step 2"]:
                limit(version_file(world, 2).stat().st_size + 4096)  # a state is three times as large
                await world.add(groups_of(spec, [3]))
    assert kinds(events)[-2:] == ["published 4", "failed checkpoint_error"]
    assert "free space" in events[-1].failed.message
    assert_usable(world, step=2)
    assert kinds(await world.train_on(spec, groups_of(spec, range(2, 4))))[0] == "loaded 2"


@pytest.mark.parametrize("damage", ["truncated", "unreadable", "manifest truncated", "missing file"])
@pytest.mark.parametrize("what", ["state", "version"])
async def test_the_checkpoint_before_a_damaged_one_is_used(
    model: Path, redis: Redis, tmp_path: Path, what: str, damage: str
) -> None:
    spec = spec_of(model, steps=6, sync={"period": 4}, checkpoints={"every": 1, "keep": 3})
    groups = groups_of(spec, range(6))
    undisturbed = await digest_of(redis, tmp_path / "a", spec, groups)
    async with learner_world(redis, tmp_path / "b") as world:
        await world.train_on(spec, groups)
        # Given the newest state damaged, or with the newest version that its steps train on
        if what == "state":
            folder, file = world.run_dir / state.name_of(6), "tensors-00000.safetensors"
        else:
            folder, file = (world.run_dir / published.name_of(4)), "model.safetensors"
        _damage(folder, file, damage)
        await redis.flushall()
        with capture_logs() as logs:
            events = await world.train_on(spec, groups)
        # Then it is named and skipped, and the run ends as it would have
        skipped = {entry["step"]: entry["error"] for entry in logs if entry["event"] == "state_skipped"}
        if what == "state" and damage != "manifest truncated":
            assert list(skipped) == [6]
            assert str(folder) in skipped[6]
        assert events[0].loaded.first_step < 6
        assert versions_on_disk(world)[-1] == 6
        assert final_digest(events) == undisturbed
        # And the record has every step once: told by the state, then made anew
        told = [report.step for report in (*events[0].loaded.missed, *steps_of(events))]
        assert told == list(range(6))


def _damage(folder: Path, file: str, damage: str) -> None:
    path = folder / file
    if damage == "truncated":
        os.truncate(path, path.stat().st_size // 2)
    elif damage == "unreadable":  # reading this file is a real I/O error, for root too
        path.unlink()
        path.symlink_to("/proc/self/mem")
    elif damage == "manifest truncated":
        os.truncate(folder / checkpoints.MANIFEST, 10)
    else:
        path.unlink()


def _size(folder: Path) -> int:
    return sum(path.stat().st_size + 4096 for path in folder.iterdir())


@contextmanager
def _file_size_limit() -> Iterator[Callable[[int], None]]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
