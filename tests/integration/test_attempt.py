"""Attempts of the coordinator with a real learner: when they can be steered, and when they are too many."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from services.coordinator.cluster.fleet import Fleet
from services.coordinator.control.controller import RunController
from services.coordinator.records.run import Run
from services.coordinator.records.store import RunStore
from services.coordinator.settings import CoordinatorSettings
from services.coordinator.submission.prepared import Prepared
from services.coordinator.work.prompt_file import Row
from services.learner import resume
from syncline import seeds
from syncline.cache import Cache
from syncline.errors import Conflict
from syncline.membership import Member
from syncline.runspec import RunSpec
from syncline.state import RunEvent, RunState
from tests.integration.learner_world import RUN, World, groups_of, learner_world, spec_of
from tests.waiting import until

pytestmark = pytest.mark.timeout(120)


class Driven:
    """A run, what drives it, and the learner that trains it."""

    def __init__(self, run: Run, world: World, controller: RunController, driving: asyncio.Task[None]) -> None:
        self.run = run
        self.world = world
        self.controller = controller
        self._driving = driving

    async def until(self, condition: Callable[[], object], *, what: str) -> None:
        """Wait while the run is driven."""

        def holds() -> object:
            met = condition()
            assert met or not self._driving.done(), f"{what}: the run is {self.run.state} ({self.run.reason})"
            return met

        await until(holds, what=what)

    async def made(self, step: int) -> None:
        """Generate for the steps before `step`, and wait until they are trained."""
        await self.until(lambda: self.run.state is RunState.RUNNING, what="the run to train")
        await self.world.add(groups_of(self.run.spec, range(self.run.record.step, step)))
        await self.until(lambda: self.run.record.step >= step, what=f"step {step}")


@asynccontextmanager
async def driven(
    run: Run, redis: Redis, model: Path, *, learner: bool = True, **settings: Any
) -> AsyncIterator[Driven]:
    """Drive a run; at the end of the block it is cancelled, as a coordinator does."""
    async with learner_world(redis, run.folder) as world:
        fleet = Fleet(redis, load_deadline_s=10)
        if learner:
            fleet.roles["learner"] = [Member("learner-test", "learner", world.address, "here", 1, time.time())]
        prepared = Prepared(
            spec=run.spec,
            seed=seeds.fetch(str(model), cache=Cache(run.folder.parent / "cache"), weights=False),
            context=2048,
            rows={"math": [Row("12+34=", "46")]},
            rollouts=None,
            evaluation_rows={},
        )
        controller = RunController(
            run,
            prepared,
            redis=redis,
            fleet=fleet,
            settings=CoordinatorSettings(run_root=run.folder.parent, **settings),
        )
        driving = asyncio.create_task(controller.drive())
        try:
            yield Driven(run, world, controller, driving)
        finally:
            if not run.state.terminal:
                run.apply(RunEvent.CANCEL)
            driving.cancel()
            with suppress(asyncio.CancelledError):
                await driving


def _run(tmp_path: Path, spec: RunSpec) -> Run:
    return RunStore(tmp_path / "runs").create(RUN, spec)


async def test_a_run_whose_learner_still_loads_it_cannot_be_steered(
    model: Path, redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it will go on is not known yet: a change made then would rewrite the schedule of steps that are trained."""
    run = _run(tmp_path, spec_of(model, steps=40, sync={"period": 10}, checkpoints={"every": 4}))
    async with driven(run, redis, model) as first:
        await first.made(6)
    run.apply(RunEvent.RESUME)
    # When it is resumed, and its model takes a while to load
    may_load, load = threading.Event(), resume._seed_trainer

    def slowly(*args: Any, **kwargs: Any) -> Any:
        assert may_load.wait(60)
        return load(*args, **kwargs)

    monkeypatch.setattr(resume, "_seed_trainer", slowly)
    async with driven(run, redis, model) as second:
        await second.until(lambda: second.world.learner.status().phase == "loading", what="the learner to load")
        attempt = second.controller.attempt
        assert attempt is not None
        with pytest.raises(Conflict, match="no learner has loaded"):
            await attempt.change_period(2)
        # Then it can be steered as soon as it trains, from the saved state on
        may_load.set()
        await second.made(5)
        await attempt.change_period(2)
        (change,) = run.spec.sync.changes
        assert (change.step >= 5, change.period) == (True, 2)
        assert [run.spec.schedule().version_for_step(step) for step in range(10)] == [0] * 10


async def test_the_seconds_of_starting_are_those_of_the_attempts(model: Path, redis: Redis, tmp_path: Path) -> None:
    run = _run(tmp_path, spec_of(model, steps=8))
    async with driven(run, redis, model) as first:
        await first.made(2)
    assert run.record.started_at is not None
    run.record.started_at -= 86_400  # it was cancelled yesterday
    run.apply(RunEvent.RESUME)
    async with driven(run, redis, model) as second:
        await second.made(3)
    assert 0.0 < run.record.phase_seconds["starting"] < 60.0


async def test_attempts_that_get_no_further_fail_the_run_and_say_where(
    model: Path, redis: Redis, tmp_path: Path
) -> None:
    run = _run(tmp_path, spec_of(model, steps=40, sync={"period": "never"}, checkpoints={"every": 40}))
    async with driven(run, redis, model, max_attempts=2) as one:
        for attempt, steps in ((1, 3), (2, 2)):  # the second one makes the same steps again, and not all of them
            await one.until(lambda n=attempt: run.record.attempts == n, what=f"attempt {attempt}")  # type: ignore[misc]
            await one.made(steps)
            one.world.learner.stop(RUN, reason="a node is drained")
        await one.until(lambda: run.state.terminal, what="the end")
    assert run.state is RunState.FAILED
    assert run.reason.startswith("2 attempts in a row got no further than step 3; the last one: ")
