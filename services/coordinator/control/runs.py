"""The queue of runs: one is active at a time, the others wait their turn, oldest first.

One fleet serves one policy, so two runs at once would only take turns loading weights.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.coordinator.cluster.fleet import Fleet
from services.coordinator.control.active import ActiveRun
from services.coordinator.control.attempt import Attempt
from services.coordinator.records.best import lend
from services.coordinator.records.run import Run
from services.coordinator.records.store import RunStore
from services.coordinator.records.summary import write_summary
from services.coordinator.settings import CoordinatorSettings
from services.coordinator.submission import endpoints
from services.coordinator.submission.preparation import Preparation
from services.coordinator.submission.prepared import Prepared
from services.coordinator.submission.reward_check import Checked
from syncline import runspec
from syncline.algo.schedule import Period
from syncline.errors import Conflict, StorageError
from syncline.ids import new_run_id
from syncline.redis_client import CONNECTION_ERRORS
from syncline.state import RunEvent, RunState
from syncline.streams import Streams

log = structlog.get_logger()


class Runs:
    """Submits, queues, drives and cancels runs."""

    def __init__(self, store: RunStore, *, redis: Redis, fleet: Fleet, settings: CoordinatorSettings) -> None:
        self.store = store
        self._redis = redis
        self._fleet = fleet
        self._settings = settings
        self._preparation = Preparation(store, fleet=fleet, settings=settings)
        self._prepared: dict[str, tuple[Prepared, Checked]] = {}
        """What was found at submission, of runs that wait."""
        self._active: ActiveRun | None = None
        self._queued = asyncio.Event()

    async def submit(self, body: Any, *, idempotency_key: str = "") -> Run:
        """Check a run spec and queue it.

        The same idempotency key with the same body answers the same run. Raises InvalidSpec, or
        Conflict for the same key with another body.
        """
        spec = runspec.parse(body)
        digest = hashlib.sha256(spec.model_dump_json().encode()).hexdigest()
        if (known := self._known(idempotency_key, digest)) is not None:
            return known
        prepared = await self._preparation.prepare(spec)
        checked = await self._preparation.check(prepared)
        warnings = [
            *prepared.spec.warnings(),
            *checked.warnings,
            *(prepared.rollouts.warnings if prepared.rollouts else ()),
            *await endpoints.unreachable(prepared.spec),
        ]
        if (known := self._known(idempotency_key, digest)) is not None:  # it came twice at the same time
            return known
        run = self.store.create(
            new_run_id(prepared.spec.name),
            prepared.spec,
            data=prepared.digests,
            rollouts=prepared.rollouts.origin if prepared.rollouts else None,
            idempotency_key=idempotency_key,
            body_digest=digest,
        )
        if warnings:
            run.warn(warnings)
        self._prepared[run.id] = (prepared, checked)
        if self._active is not None and run in (heirs := self.store.heirs(self._active.run)):
            await lend(self._active.run, heirs)
        self._tell_queue()
        self._queued.set()
        log.info("run_submitted", run_id=run.id, warnings=len(warnings))
        return run

    def _known(self, idempotency_key: str, digest: str) -> Run | None:
        known = self.store.by_idempotency_key(idempotency_key)
        if known is not None and known.record.body_digest != digest:
            raise Conflict(f"Idempotency-Key {idempotency_key!r} was used for run {known.id} with another body")
        return known

    def cancel(self, run_id: str, *, reason: str = "cancelled on request") -> Run:
        """End a run. A run that is cancelled already stays so; Conflict for one that ended otherwise."""
        run = self.store.get(run_id)
        if run.state is RunState.CANCELLED:
            return run
        run.apply(RunEvent.CANCEL, reason)
        if self._active is not None and self._active.run is run:
            self._active.stop()
        else:
            write_summary(run)
        return run

    def delete(self, run_id: str) -> None:
        """Delete a run that is over with all that it made.

        Raises Conflict for one that is not over, or whose weights another one starts from, and StorageError.
        """
        run = self.store.get(run_id)
        if not run.state.terminal:
            raise Conflict(f"run {run.id} is {run.state.value}; cancel it first")
        if self._active is not None and self._active.run is run:
            raise Conflict(f"run {run.id} is just ending; try again in a moment")
        for heir in self.store.heirs(run):
            state = heir.state.value
            raise Conflict(f"run {heir.id} is {state} and starts from a checkpoint of run {run.id}; delete it first")
        self.store.delete(run)

    async def change_period(self, run_id: str, period: Period) -> Run:
        """Another sync period from the next window on. Raises Conflict for a run that is over, or trains on a file."""
        run = self.store.get(run_id)
        if run.record.rollouts is not None:
            raise Conflict(f"run {run.id} trains on a file of rollouts, which are of one fixed policy: never synced")
        if run.state is RunState.PENDING:
            run.change_period(run.spec.with_period(run.record.step, period))
            return run
        await self._attempt_of(run).change_period(period)
        return run

    async def pause(self, run_id: str) -> Run:
        """Hold a run; one that is held already stays so."""
        run = self.store.get(run_id)
        if run.state.terminal or not run.record.paused:
            await self._attempt_of(run).pause()
        return run

    async def resume(self, run_id: str) -> Run:
        """Continue a paused run, or queue a failed or cancelled one again to go on from its saved state.

        Raises Conflict, with the run as it was, where its prompts are not what they were, and InvalidSpec where it
        could not be submitted today.
        """
        run = self.store.get(run_id)
        if run.state in (RunState.FAILED, RunState.CANCELLED):
            await self._preparation.require_unchanged(run)
            run.apply(RunEvent.RESUME, "going on from the saved state")
            self._tell_queue()
            self._queued.set()
        elif (
            run.state in (RunState.STARTING, RunState.STALLED) and run.record.paused
        ):  # its attempt was lost in the pause
            run.forget_pause()
        elif run.state is not RunState.RUNNING:
            await self._attempt_of(run).resume()
        return run

    def _attempt_of(self, run: Run) -> Attempt:
        controller = self._active.controller if self._active is not None and self._active.run is run else None
        attempt = controller.attempt if controller is not None else None
        if attempt is None:
            raise Conflict(f"run {run.id} is {run.state.value}; only a run that is at work can be steered")
        return attempt

    async def run(self) -> None:
        """Drive queued runs, one after the other, until cancelled."""
        while True:
            self._queued.clear()
            waiting = [run for run in self.store.all() if not run.state.terminal]
            await self._close_all_but(waiting)
            if not waiting:
                self._fleet.want(None)
                await self._queued.wait()
                continue
            await self._drive(waiting[0])

    def _tell_queue(self) -> None:
        """Tell the runs that are pending for which one they wait."""
        waiting = [run for run in self.store.all() if not run.state.terminal]
        ahead = self._active.run if self._active is not None else waiting[0]
        for run in waiting:
            if run is not ahead and run.state is RunState.PENDING and run.waits_for is not ahead:
                run.waits_for = ahead
                with suppress(StorageError):  # it is told once more with the next run
                    run.emit("queued", {"behind": ahead.id})

    async def _close_all_but(self, wanted: Sequence[Run]) -> None:
        """A run that ended while Redis was away left its work open, and somebody would still pay for its rewards."""
        streams = Streams(self._redis)
        with suppress(RedisError, *CONNECTION_ERRORS):
            for run_id in set(await streams.open_runs()) - {run.id for run in wanted}:
                await streams.close_run(run_id)

    async def _drive(self, run: Run) -> None:
        prepared, checked = self._prepared.pop(run.id, (None, None))
        structlog.contextvars.bind_contextvars(run_id=run.id)
        self._active = ActiveRun(
            run,
            prepared=prepared,
            checked=checked is not None and checked.complete,
            preparation=self._preparation,
            store=self.store,
            redis=self._redis,
            fleet=self._fleet,
            settings=self._settings,
        )
        self._tell_queue()
        try:
            await self._active.make()
        finally:
            self._active = None
            structlog.contextvars.unbind_contextvars("run_id")
            log.info("run_left", run_id=run.id, state=run.state, reason=run.record.reason)

    def count(self) -> Counter[RunState]:
        """Runs by state."""
        return Counter(run.state for run in self.store.all())
