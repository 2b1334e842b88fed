"""Attempts that are stopped, superseded, sent away, or cannot start."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import grpc
import pytest
from redis.asyncio import Redis

from syncline.errors import Busy
from syncline.v1.learner_service_pb2 import LearnerServiceGetStatusRequest, StopRequest, UpdateRequest
from tests.hanging_file import HangingFile
from tests.integration.learner_world import (
    RUN,
    World,
    groups_of,
    kinds,
    learner_world,
    spec_of,
    steps_of,
    until_idle,
)
from tests.integration.tiny_models import make_tiny_model
from tests.waiting import until

pytestmark = pytest.mark.timeout(60)


async def test_a_client_that_goes_away_frees_the_learner_and_its_groups(
    model: Path, redis: Redis, tmp_path: Path
) -> None:
    lease_s = 60.0
    async with learner_world(redis, tmp_path / "run", lease_s=lease_s) as world:
        spec = spec_of(model)
        await world.add(groups_of(spec, [0])[:3])
        call = world.stub.Train(world.request(spec))
        await call.read()
        await until(lambda: "1 of 4 groups of step 0" in world.learner.status().detail)
        call.cancel()
        # Another run is taken at once; the groups are handed back, and the next attempt need not wait for a lease.
        other = world.stub.Train(world.request(spec, run_id="another-run"))
        assert (await other.read()).HasField("loaded")
        other.cancel()
        await until_idle(world)
        await world.add(groups_of(spec, [0])[3:] + groups_of(spec, range(1, 4)))
        async with asyncio.timeout(lease_s / 2):
            assert kinds(await world.train(spec))[-1] == "finished 4"


async def test_stop_ends_the_stream_without_a_last_word(model: Path, world: World) -> None:
    spec = spec_of(model)
    call = world.stub.Train(world.request(spec))
    assert (await call.read()).HasField("loaded")
    status = await world.stub.GetStatus(LearnerServiceGetStatusRequest())
    assert (status.run_id, status.step, status.phase) == (RUN, 0, "waiting")
    assert "4 of 4 groups of step 0 by version 0" in status.detail
    assert not (await world.stub.Stop(StopRequest(run_id="another-run"))).stopped
    assert (await world.stub.Stop(StopRequest(run_id=RUN, reason="test"))).stopped
    assert await call.read() is grpc.aio.EOF
    assert (await world.stub.GetStatus(LearnerServiceGetStatusRequest())).phase == "idle"


async def test_a_second_run_is_refused_while_one_is_trained(model: Path, world: World) -> None:
    spec = spec_of(model)
    first = world.stub.Train(world.request(spec))
    await first.read()
    with pytest.raises(Exception, match=f"learner-test trains run {RUN}, step 0"):
        await world.stub.Train(world.request(spec, run_id="another-run")).read()
    # The same run again is another matter: its client lost the stream, and the new one takes over.
    second = world.stub.Train(world.request(spec))
    assert (await second.read()).HasField("loaded")
    with pytest.raises(Exception, match="took over"):
        await first.read()
    second.cancel()


async def test_a_learner_that_cannot_stop_at_once_says_that_it_is_busy_and_takes_the_run_later(
    redis: Redis, tmp_path: Path
) -> None:
    model = make_tiny_model(tmp_path / "seed", seed=0, hidden=16, layers=1, heads=1)
    spec = spec_of(model)
    async with learner_world(redis, tmp_path / "run", stop_timeout_s=0.1) as world:
        # Given a learner whose publication hangs, and a client that went away
        await world.add(groups_of(spec, [0]))
        call = world.stub.Train(world.request(spec))
        assert kinds([await call.read(), await call.read()]) == ["loaded 0", "step 0"]
        config = HangingFile(model / "config.json")
        await world.add(groups_of(spec, range(1, 4)))
        await until(config.is_read)
        call.cancel()
        # Then neither its run nor another one is refused for good
        for run_id in (RUN, "another-run"):
            with pytest.raises(grpc.aio.AioRpcError, match=f"is still publishing for run {RUN}") as refused:
                await world.stub.Train(world.request(spec, run_id=run_id)).read()
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
            assert ("syncline-code", Busy.code) in tuple(refused.value.trailing_metadata())
        # And when the storage answers, the run goes on
        config.answer()
        await until_idle(world)
        await redis.flushall()
        assert kinds(await world.train_on(spec, groups_of(spec, range(4))))[-1] == "finished 4"


async def test_a_paused_run_collects_but_waits_before_its_next_update(model: Path, world: World) -> None:
    spec = spec_of(model, steps=2)
    call = world.stub.Train(world.request(spec))
    await call.read()
    await world.stub.Update(UpdateRequest(run_id=RUN, paused=True))
    await world.add(groups_of(spec, range(2)))
    await until(lambda: "paused" in world.learner.status().detail)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(waiting := asyncio.ensure_future(call.read())), 0.5)
    assert await world.unacknowledged() == 8
    await world.stub.Update(UpdateRequest(run_id=RUN, paused=False))
    assert kinds([await waiting, await call.read(), await call.read()]) == ["step 0", "step 1", "published 2"]


async def test_a_changed_sync_period_is_followed_from_its_step_on(model: Path, world: World) -> None:
    # Given a run with s = 2 at its third step
    spec = spec_of(model, steps=6)
    await world.add(groups_of(spec, range(2)))
    call = world.stub.Train(world.request(spec))
    events = [await call.read() for _ in range(4)]
    await until(lambda: world.learner.status().phase == "waiting")
    # When s becomes 1 from step 4 on
    online = spec_of(model, steps=6, sync={"period": 2, "changes": [{"step": 4, "period": 1}]})
    answer = await world.stub.Update(UpdateRequest(run_id=RUN, spec_json=online.model_dump_json()))
    assert answer.step == 2
    await world.add(groups_of(online, range(2, 6)))
    while (event := await call.read()) is not grpc.aio.EOF:
        events.append(event)
    # Then version 5 is published too, and step 5 trains on it
    assert [kind for kind in kinds(events) if "published" in kind] == [f"published {v}" for v in (2, 4, 5, 6)]
    assert [(report.version, report.staleness) for report in steps_of(events)] == [
        (0, 0), (0, 1), (2, 0), (2, 1), (4, 0), (5, 0),
    ]  # fmt: skip


async def test_a_change_that_is_no_later_sync_period_is_refused(model: Path, world: World) -> None:
    spec = spec_of(model, steps=6)
    await world.add(groups_of(spec, range(3)))
    call = world.stub.Train(world.request(spec))
    await call.read()
    await until(lambda: world.learner.status().step == 3)
    for changed, why in [
        (spec_of(model, steps=7), "only the sync schedule"),
        (spec_of(model, steps=6, sync={"period": 2, "changes": [{"step": 2, "period": 1}]}), "must lie beyond"),
    ]:
        with pytest.raises(grpc.aio.AioRpcError, match=why):
            await world.stub.Update(UpdateRequest(run_id=RUN, spec_json=changed.model_dump_json()))
    with pytest.raises(grpc.aio.AioRpcError, match="does not train run another-run"):
        await world.stub.Update(UpdateRequest(run_id="another-run", paused=True))


async def test_a_draining_learner_sends_its_client_elsewhere(model: Path, world: World) -> None:
    spec = spec_of(model)
    call = world.stub.Train(world.request(spec))
    await call.read()
    await world.learner.drain()
    with pytest.raises(Exception, match="shutting down"):
        await call.read()
    with pytest.raises(Exception, match="shutting down"):
        await world.stub.Train(world.request(spec)).read()


async def test_a_bad_model_folder_fails_the_attempt_with_a_clear_message(
    model: Path, world: World, tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (event,) = await world.train(spec_of(empty))
    assert event.failed.code == "invalid_spec"
    assert f"model.path: {empty} cannot be loaded: there is no config.json" in event.failed.message

    # A folder without one of its weights must not be filled up with random numbers.
    lacking = make_tiny_model(tmp_path / "lacking", seed=0, hidden=16, layers=1, heads=1)
    config = json.loads((lacking / "config.json").read_text())
    (lacking / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))
    (event,) = await world.train(spec_of(lacking))
    assert "its files lack" in event.failed.message

    truncated = make_tiny_model(tmp_path / "truncated", seed=0, hidden=16, layers=1, heads=1)
    content = (truncated / "model.safetensors").read_bytes()
    (truncated / "model.safetensors").write_bytes(content[: len(content) // 2])
    (event,) = await world.train(spec_of(truncated))
    assert event.failed.code == "invalid_spec"

    # And the learner is still there.
    spec = spec_of(model, steps=1)
    assert kinds(await world.train_on(spec, groups_of(spec, [0])))[-1] == "finished 1"


async def test_storage_that_refuses_fails_the_attempt_and_names_the_folder(
    model: Path, world: World, tmp_path: Path
) -> None:
    world.run_dir = tmp_path / "a-file" / "run"
    world.run_dir.parent.write_text("not a folder")
    (event,) = await world.train(spec_of(model))
    assert event.failed.code == "checkpoint_error"
    assert str(world.run_dir) in event.failed.message
    assert "mend the storage" in event.failed.message
