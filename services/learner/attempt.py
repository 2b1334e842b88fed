"""One attempt to train a run: load or resume, then collect, update, report, publish and save until the last step.

The attempt runs as one task. Torch works in one thread of its own, so that leases, health and status stay alive while
it does. Whatever goes wrong becomes a `Failed` event; the service stays up. Above one rank, every call that touches
the model is an order to all ranks; a rank that is lost ends the attempt, and the service with it.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Literal, ParamSpec, TypeVar

import structlog
import torch
from redis.asyncio import Redis

from services.learner import state
from services.learner.collector import Collector
from services.learner.crew import Crew
from services.learner.orders import Order
from services.learner.participant import Participant
from services.learner.policy import ALONE
from services.learner.record import record_step
from services.learner.report import step_report
from services.learner.resume import Run
from services.learner.retention import is_published, versions_in_use
from services.learner.settings import LearnerSettings
from syncline import published, standings
from syncline.cache import Cache
from syncline.errors import Conflict, RunFailed, SynclineError
from syncline.runspec import RunSpec
from syncline.storage import prune
from syncline.v1.learner_service_pb2 import (
    CheckpointPublished,
    Failed,
    Finished,
    Loaded,
    StepReport,
    TrainRequest,
    TrainResponse,
)

log = structlog.get_logger()
Phase = Literal["loading", "waiting", "training", "publishing"]
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class Attempt:
    """Starts at once. `events` tells what happens; `stop` ends it from outside."""

    def __init__(
        self, request: TrainRequest, *, settings: LearnerSettings, redis: Redis, cache: Cache, crew: Crew | None = None
    ) -> None:
        self.run_id = request.run_id
        self.phase: Phase = "loading"
        self.step = 0
        self.stopping = False
        self._request = request
        self._settings = settings
        self._redis = redis
        self._crew = crew
        self._collector: Collector | None = None
        self._released = asyncio.Event()
        self._released.set()
        self._stop_torch = threading.Event()
        ranks = crew.ranks if crew is not None else ALONE
        self._rank = Participant(settings, cache=cache, stop=self._stop_torch, ranks=ranks)
        self._torch = ThreadPoolExecutor(max_workers=1, thread_name_prefix="torch")
        self._events: asyncio.Queue[TrainResponse | None] = asyncio.Queue()  # a few kilobytes a step
        self._cause: SynclineError | None = None
        self._task = asyncio.create_task(self._supervise(), name=f"attempt:{self.run_id}")
        self._task.add_done_callback(lambda _: self._close())

    @property
    def ended(self) -> bool:
        return self._task.done()

    def describe(self) -> str:
        """What the attempt waits for, in words."""
        if self.phase == "waiting" and self._collector is not None:
            if not self._released.is_set():
                return "paused; training goes on when the run is resumed"
            return self._collector.describe(self.step)
        return ""

    def hold(self) -> None:
        """Wait before the next update; groups are still collected, and the one in work is finished."""
        self._released.clear()

    def release(self) -> None:
        """Go on after a hold."""
        self._released.set()

    def reschedule(self, spec: RunSpec) -> None:
        """Follow later sync periods. Raises Conflict for a spec that differs in more, or in steps already begun."""
        run = self._rank.run
        if self.phase == "loading":  # the step that it goes on from is not known
            raise Conflict(f"run {self.run_id} is still loading; try again when it trains")
        if run.spec.model_copy(update={"sync": spec.sync}) != spec:
            raise Conflict(f"only the sync schedule of run {self.run_id} can change while it trains")
        old, new = run.spec.schedule(), spec.schedule()
        begun = self.step + (2 if self.phase == "publishing" else 1)  # whether generators need it was decided already
        if any(old.version_for_step(step) != new.version_for_step(step) for step in range(begun)):
            raise Conflict(f"run {self.run_id} is {self.phase} at step {self.step}; a sync change must lie beyond it")
        self._rank.reschedule(spec)
        if self._collector is not None:
            self._collector.schedule = new

    async def events(self) -> AsyncIterator[TrainResponse]:
        """What happens, until the attempt ends. One that was stopped ends without a last word, or with its cause."""
        while (event := await self._events.get()) is not None:
            yield event
        if self._cause is not None:
            raise self._cause

    def stop(self, cause: SynclineError | None = None) -> None:
        """End the attempt: at once while it waits, else before the next micro-batch or after the write in work."""
        if not self.stopping and not self.ended:
            self.stopping = True
            self._cause = cause
            self._task.cancel()

    async def wait(self, timeout_s: float) -> bool:
        """Wait until it has ended and its thread is idle; False when that takes longer."""
        done, _ = await asyncio.wait([self._task], timeout=timeout_s)
        return bool(done)

    async def _supervise(self) -> None:
        try:
            await self._train()
        except asyncio.CancelledError:
            log.info("attempt_stopped", run=self.run_id, step=self.step)
        except SynclineError as error:
            if error.retryable:
                self._cause = error  # not the run's fault: the stream breaks, and the coordinator tries again
            else:
                self._fail(error)
        except torch.OutOfMemoryError as error:
            self._fail(RunFailed(f"out of GPU memory: {error}; lower SYNCLINE_MICRO_BATCH_TOKENS or use a larger GPU"))
        except Exception as error:  # the outermost supervisor of an attempt: the service stays up
            log.error("attempt_failed", run=self.run_id, step=self.step, exc_info=error)
            self._fail(SynclineError(f"{type(error).__name__}: {error}; see the learner's log"))

    def _close(self) -> None:
        """Called when the task is over, also when it was stopped before it ran at all."""
        self._torch.shutdown(wait=False)  # its thread is idle by now
        self._rank.close()
        self._events.put_nowait(None)

    async def _train(self) -> None:
        rank = self._rank
        opened = await self._everywhere(
            rank.open, run_id=self.run_id, spec_json=self._request.spec_json, run_dir=self._request.run_dir
        )
        self._emit(
            TrainResponse(
                loaded=Loaded(
                    first_step=opened.first_step,
                    num_parameters=opened.trainer.policy.num_parameters(),
                    published=opened.published,
                    missed=opened.history.since(self._request.reported),
                    skipped=opened.skipped,
                )
            )
        )
        self._collector = collector = Collector(
            self._redis,
            run_id=self.run_id,
            spec=rank.run.spec,
            vocabulary=opened.trainer.policy.vocabulary,
            published=opened.published,
            lease_s=self._settings.lease_s,
        )
        try:
            async with collector.leased():
                for step in range(opened.first_step, rank.run.spec.steps):
                    report = await self._make_step(collector, step)
                    opened.history.add(report)
                    await collector.done(step)
                    self._emit(TrainResponse(step=report))
                    await self._keep(collector, step + 1)
        finally:
            await collector.hand_back()
            if self._crew is not None and self._crew.loss is None:
                self._crew.give(Order(self._rank.close.__name__))
                await self._crew.settle()
        self._emit(TrainResponse(finished=Finished(version=rank.run.spec.steps)))

    async def _make_step(self, collector: Collector, step: int) -> StepReport:
        """Wait for the groups of `step`, and for leave to go on; train on them, and record them when the run asks."""
        self._enter("waiting", step=step)
        collected = await collector.collect(step)
        await self._released.wait()

        self._enter("training", step=step)
        started = time.monotonic()
        run, version = self._rank.run, collector.schedule.version_for_step(step)
        made = await self._everywhere(self._rank.update, collected.groups, step=step, version=version)
        report = step_report(
            made,
            step=step,
            version=version,
            shaped={task.name for task in run.spec.tasks if task.reward.shaping},
            refused=collected.refused,
            wait_seconds=collected.wait_seconds,
            update_seconds=time.monotonic() - started,
        )
        if run.spec.rollouts.record:
            await self._in_thread(record_step, run, made.planned, step=step)
        return report

    async def _keep(self, collector: Collector, version: int) -> None:
        """Publish `version` where generators need it, and save the state where the run asks for it.

        Published before saved: a state is of use only while generators can get the versions it needs.
        """
        self._enter("publishing", step=self.step)
        spec = self._rank.run.spec
        publishes = is_published(spec, version)
        saves = version % spec.checkpoints.every == 0 or version == spec.steps
        if publishes:
            started = time.monotonic()
            handle = await self._everywhere(self._rank.publish, version=version)
            seconds = time.monotonic() - started
            collector.published(handle)
            self._emit(TrainResponse(published=CheckpointPublished(handle=handle, seconds=seconds)))
        if saves:
            await self._everywhere(self._rank.save, step=version)
        if publishes or saves:
            await self._in_thread(_prune_versions, self._rank.run, version=version)

    async def _everywhere(
        self, call: Callable[Arguments, Result], *groups: Arguments.args, **fields: Arguments.kwargs
    ) -> Result:
        """Let all ranks call this method of their Participant with the same arguments, rank 0 among them.

        Raises what `call` raises here, or the loss of a rank, which is often the reason for it.
        """
        if self._crew is None:
            return await self._in_thread(call, *groups, **fields)
        self._crew.give(Order(call.__name__, fields, *groups))  # type: ignore[arg-type]  # only updates have groups
        try:
            result = await self._in_thread(call, *groups, **fields)
        except BaseException as error:
            with suppress(SynclineError):
                await self._crew.settle(failed=True)
            if self._crew.loss is None or isinstance(error, (SynclineError, torch.OutOfMemoryError)):
                raise
            raise self._crew.loss from error
        await self._crew.settle()
        return result

    async def _in_thread(
        self, call: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Result:
        """Run `call` in the torch thread. When the attempt is stopped, wait until the thread has noticed."""
        work = asyncio.get_running_loop().run_in_executor(self._torch, partial(call, *args, **kwargs))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            self._stop_torch.set()
            if self._crew is None or self._crew.loss is None:  # else it may hang in a collective, and the process ends
                await asyncio.gather(work, return_exceptions=True)
            raise

    def _enter(self, phase: Phase, *, step: int) -> None:
        self.step, self.phase = step, phase
        log.debug("phase_entered", phase=phase, step=step)

    def _emit(self, event: TrainResponse) -> None:
        self._events.put_nowait(event)

    def _fail(self, error: SynclineError) -> None:
        log.error("run_failed", run=self.run_id, step=self.step, code=error.code, error=error.message)
        self._emit(TrainResponse(failed=Failed(code=error.code, message=error.message)))


def _prune_versions(run: Run, *, version: int) -> None:
    kept = published.versions(run.storage)
    in_use = versions_in_use(
        run.spec,
        version=version,
        published=kept,
        saved_steps=state.saved_steps(run.storage),
        standings=standings.read(run.storage),
    )
    prune(
        run.storage,
        [published.name_of(one) for one in kept],
        keep=run.spec.checkpoints.keep,
        in_use=[published.name_of(one) for one in in_use],
    )
