"""Full disks and files that cannot be read: a clear word, and the checkpoint before stays usable."""

from __future__ import annotations

import os
import resource
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from redis.asyncio import Redis

from services.learner import state
from syncline import checkpoints, published
from syncline.runspec import RunSpec
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
    until_idle,
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


def assert_usable(world: World, spec: RunSpec, *, step: int) -> None:
    """The state before `step` and the version of that number are whole, and nothing half-written lies beside them."""
    state.verify(FolderStorage(world.run_dir), step, run_id=RUN, spec=spec)
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
            assert_usable(world, spec, step=2)
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
    assert_usable(world, spec, step=2)
    assert kinds(await world.train_on(spec, groups_of(spec, range(2, 4))))[0] == "loaded 2"


@pytest.mark.parametrize("damage", ["truncated", "manifest truncated", "missing file"])
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
        events = await world.train(spec, until=lambda event: event.HasField("loaded"))
        # Then it is named, skipped and set aside
        assert any(str(folder) in text for text in events[0].loaded.skipped)
        first = events[0].loaded.first_step
        assert first < 6
        aside = folder.parent / f".{folder.name}.aside"
        await until_idle(world)
        assert aside.is_dir()
        # And the run ends as it would have, and has let go of it by then
        events = await world.train_on(spec, groups)
        assert events[0].loaded.first_step == first
        assert final_digest(events) == undisturbed
        assert versions_on_disk(world)[-1] == 6
        assert [path for kind in ("state", "checkpoints") for path in (world.run_dir / kind).glob(".*")] == []
        # And the record has every step once: told by the state, then made anew
        told = [report.step for report in (*events[0].loaded.missed, *steps_of(events))]
        assert told == list(range(6))


@pytest.mark.parametrize("what", ["state", "version"])
async def test_what_cannot_be_read_at_the_moment_breaks_the_attempt_and_nothing_is_lost(
    model: Path, world: World, what: str
) -> None:
    spec = spec_of(model, steps=6, sync={"period": 4}, checkpoints={"every": 1, "keep": 3})
    last = final_digest(await world.train_on(spec, groups_of(spec, range(6))))
    file = (world.run_dir / state.name_of(6)) / "tensors-00000.safetensors"
    if what == "version":
        file = version_file(world, 4)
    before = _files(world.run_dir)
    with _unreadable(file):
        with pytest.raises(
            grpc.aio.AioRpcError, match=r"cannot be read at the moment \(.*Input/output error"
        ) as broken:
            await world.train(spec)
        assert broken.value.code() is grpc.StatusCode.UNAVAILABLE, "the coordinator tries again"
    assert _files(world.run_dir) == before
    events = await world.train(spec)
    assert kinds(events) == ["loaded 6", "finished 6"]
    assert list(events[0].loaded.skipped) == []
    assert events[0].loaded.published[-1].manifest_digest == last


async def test_a_run_does_not_begin_again_while_it_has_states_that_cannot_be_used(model: Path, world: World) -> None:
    spec = spec_of(model)
    groups = groups_of(spec, range(4))
    last = final_digest(await world.train_on(spec, groups))
    for step in (2, 4):
        _damage(world.run_dir / state.name_of(step), "tensors-00000.safetensors", "truncated")
    (failed,) = await world.train(spec)
    assert failed.failed.code == "run_failed"
    for text in ("step-000002", "step-000004", f"move {world.run_dir}/state away"):
        assert text in failed.failed.message
    assert state.saved_steps(FolderStorage(world.run_dir)) == [2, 4]
    # When somebody does so, it begins again
    (world.run_dir / "state").rename(world.run_dir.parent / "gone")
    await world.redis.flushall()
    events = await world.train_on(spec, groups)
    assert kinds(events)[0] == "loaded 0"
    assert final_digest(events) == last


async def test_a_state_of_another_schedule_is_refused(model: Path, world: World) -> None:
    spec = spec_of(model, steps=6, sync={"period": 3}, checkpoints={"every": 2, "keep": 3})
    await world.train_on(spec, groups_of(spec, range(6)))
    await world.redis.flushall()
    changed = spec_of(
        model, steps=6, sync={"period": 3, "changes": [{"step": 3, "period": 1}]}, checkpoints={"every": 2, "keep": 3}
    )
    events = await world.train_on(changed, groups_of(changed, range(6)))
    assert kinds(events)[0] == "loaded 4", "steps 0 to 3 are trained alike by both"
    (skipped,) = events[0].loaded.skipped
    assert "step-000006 trained step 4 on version 3, and by the sync schedule of the run spec it is 4" in skipped


def _damage(folder: Path, file: str, damage: str) -> None:
    path = folder / file
    if damage == "truncated":
        os.truncate(path, path.stat().st_size // 2)
    elif damage == "manifest truncated":
        os.truncate(folder / checkpoints.MANIFEST, 10)
    else:
        path.unlink()


@contextmanager
def _unreadable(file: Path) -> Iterator[None]:
    """Reading the file is a real I/O error, for root too."""
    kept = file.rename(file.parents[3] / "kept")
    file.symlink_to("/proc/self/mem")
    try:
        yield
    finally:
        file.unlink()
        kept.rename(file)


def _files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _size(folder: Path) -> int:
    return sum(path.stat().st_size + 4096 for path in folder.iterdir())


@contextmanager
def _file_size_limit() -> Iterator[Callable[[int], None]]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
