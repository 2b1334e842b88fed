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
from dataclasses import replace
from functools import partial
from typing import Literal, ParamSpec, TypeVar

import structlog
import torch
from redis.asyncio import Redis

from services.learner import state
from services.learner.collector import Collector
from services.learner.crew import Crew
from services.learner.orders import Order
from services.learner.ranks import Ranks
from services.learner.record import record_step
from services.learner.report import step_report
from services.learner.resume import Run, open_run, publish_version
from services.learner.retention import is_published, versions_in_use
from services.learner.settings import LearnerSettings
from services.learner.step import update
from syncline import published, runspec, standings
from syncline.cache import Cache
from syncline.errors import Conflict, RunFailed, StoreUnreachable, SynclineError
from syncline.runspec import RunSpec
from syncline.storage import prune, storage_at
from syncline.v1.learner_service_pb2 import (
    CheckpointPublished,
    Failed,
    Finished,
    Loaded,
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
        self._cache = cache
        self._run: Run | None = None
        self._collector: Collector | None = None
        self._released = asyncio.Event()
        self._released.set()
        self._stop_torch = threading.Event()
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
        if self._run is None:
            raise Conflict(f"run {self.run_id} is still loading; try again when it trains")
        old, new = self._run.spec.schedule(), spec.schedule()
        if self._run.spec.model_copy(update={"sync": spec.sync}) != spec:
            raise Conflict(f"only the sync schedule of run {self.run_id} can change while it trains")
        if any(old.version_for_step(step) != new.version_for_step(step) for step in range(self.step + 1)):
            raise Conflict(f"run {self.run_id} is at step {self.step}; a sync change must lie beyond it")
        self._run = replace(self._run, spec=spec)
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
            lost_rank = self._crew is not None and error is self._crew.loss and error.retryable
            if lost_rank or isinstance(error, StoreUnreachable):
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
        self._events.put_nowait(None)

    async def _train(self) -> None:
        storage = storage_at(self._request.run_dir, cache=self._cache)
        run = Run(self.run_id, runspec.parse_json(self._request.spec_json), storage, self._cache)
        self._run = run

        ranks = self._crew.ranks if self._crew is not None else Ranks()
        opened = await self._everywhere(
            Order("open", {"run_id": run.id, "spec_json": self._request.spec_json, "run_dir": run.storage.uri}),
            partial(open_run, run, settings=self._settings, stop=self._stop_torch, ranks=ranks),
        )
        trainer, history = opened.trainer, opened.history
        self._emit(
            TrainResponse(
                loaded=Loaded(
                    first_step=opened.first_step,
                    num_parameters=trainer.policy.num_parameters(),
                    published=opened.published,
                    missed=history.since(self._request.reported),
                )
            )
        )

        self._collector = collector = Collector(
            self._redis,
            run_id=run.id,
            spec=self._run.spec,
            vocabulary=trainer.policy.vocabulary,
            lease_s=self._settings.lease_s,
        )
        try:
            async with collector.leased():
                for step in range(opened.first_step, run.spec.steps):
                    self.step, self.phase = step, "waiting"
                    collected = await collector.collect(step)
                    await self._released.wait()

                    self.phase = "training"
                    started = time.monotonic()
                    rollouts_of = collector.schedule.version_for_step(step)
                    made = await self._everywhere(
                        Order("update", {"step": step, "version": rollouts_of}, collected.groups),
                        partial(update, trainer, collected.groups, step=step, version=rollouts_of),
                    )
                    report = step_report(
                        made,
                        step=step,
                        version=rollouts_of,
                        shaped={task.name for task in run.spec.tasks if task.reward.shaping},
                        refused=collected.refused,
                        wait_seconds=collected.wait_seconds,
                        update_seconds=time.monotonic() - started,
                    )
                    if run.spec.rollouts.record:
                        await self._in_thread(record_step, run, made.planned, step=step)
                    history.add(report)
                    await collector.done(step)
                    self._emit(TrainResponse(step=report))

                    # Published before saved: a state is of use only while generators can get the versions it needs.
                    self.phase = "publishing"
                    version, run = step + 1, self._run  # its sync schedule may have changed
                    publishes = is_published(run.spec, version)
                    saves = version % run.spec.checkpoints.every == 0 or version == run.spec.steps
                    if publishes:
                        started = time.monotonic()
                        handle = await self._everywhere(
                            Order("publish", {"version": version}),
                            partial(publish_version, run, trainer.policy, version=version),
                        )
                        seconds = time.monotonic() - started
                        self._emit(TrainResponse(published=CheckpointPublished(handle=handle, seconds=seconds)))
                    if saves:
                        save = partial(
                            state.save, trainer, run_id=run.id, spec=run.spec, storage=run.storage, history=history
                        )
                        await self._everywhere(Order("save", {"step": version}), partial(save, step=version))
                    if publishes or saves:
                        await self._in_thread(_prune_versions, run, version=version)
        finally:
            await collector.hand_back()
            if self._crew is not None and self._crew.loss is None:
                self._crew.give(Order("close"))
                await self._crew.settle()
        self._emit(TrainResponse(finished=Finished(version=run.spec.steps)))

    async def _everywhere(self, order: Order, call: Callable[[], Result]) -> Result:
        """Let all ranks carry out `order`; `call` is this rank's part of it. Alone, just `call`.

        Raises what `call` raises, or the loss of a rank, which is often the reason for it.
        """
        if self._crew is None:
            return await self._in_thread(call)
        self._crew.give(order)
        try:
            result = await self._in_thread(call)
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
