"""The queue of runs: one is active at a time, the others wait their turn, oldest first.

One fleet serves one policy, so two runs at once would only take turns loading weights.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.coordinator import endpoints
from services.coordinator.controller import RunController
from services.coordinator.fleet import Fleet
from services.coordinator.reward_check import UNCHECKED, Checked, check_rewards
from services.coordinator.run import Run
from services.coordinator.settings import CoordinatorSettings
from services.coordinator.store import RunStore
from services.coordinator.submission import Prepared, prepare
from services.coordinator.summary import checkpoint_place, write_summary
from syncline import runspec
from syncline.algo.schedule import Period
from syncline.backoff import Backoff
from syncline.cache import Cache
from syncline.errors import Conflict, InvalidSpec, RunFailed, StorageError, StoreUnreachable, SynclineError
from syncline.ids import new_run_id
from syncline.redis_client import CONNECTION_ERRORS
from syncline.state import RunEvent, RunState
from syncline.streams import Streams

log = structlog.get_logger()
_WHILE_THE_STORE_IS_AWAY = Backoff(first_s=2.0, longest_s=30.0)
_LOOK_AGAIN_S = 0.5


class Runs:
    """Submits, queues, drives and cancels runs."""

    def __init__(self, store: RunStore, *, redis: Redis, fleet: Fleet, settings: CoordinatorSettings) -> None:
        self.store = store
        self._redis = redis
        self._fleet = fleet
        self._settings = settings
        self._cache = Cache(settings.cache_root)
        self._prepared: dict[str, Prepared] = {}
        self._checked: set[str] = set()
        """Runs whose rewards a reward service has checked in this life of the process."""
        self._active: tuple[Run, asyncio.Task[None]] | None = None
        self._controller: RunController | None = None
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
        prepared = await self._prepare(spec)
        checked = await self._check(prepared)
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
            rollouts=prepared.rollouts.origin if prepared.rollouts else None,
            idempotency_key=idempotency_key,
            body_digest=digest,
        )
        if warnings:
            run.warn(warnings)
        self._prepared[run.id] = prepared
        if checked.complete:
            self._checked.add(run.id)
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
        if self._active is not None and self._active[0] is run:
            self._active[1].cancel()
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
        if self._active is not None and self._active[0] is run:
            raise Conflict(f"run {run.id} is just ending; try again in a moment")
        places = (str(run.folder.resolve()), run.storage.uri)
        for other in self.store.all():
            if not other.state.terminal and other.spec.model.path.startswith(places):
                raise Conflict(f"run {other.id} is {other.state.value} and starts from a checkpoint of run {run.id}")
        self.store.delete(run)

    async def change_period(self, run_id: str, period: Period) -> Run:
        """Another sync period from the next window on. Raises Conflict for a run that is over, or trains on a file."""
        run = self.store.get(run_id)
        if run.record.rollouts is not None:
            raise Conflict(f"run {run.id} trains on a file of rollouts, which are of one fixed policy: never synced")
        if run.state is RunState.PENDING:
            run.change_period(run.spec.with_period(run.record.step, period))
            return run
        await self._controller_of(run).change_period(period)
        return run

    async def pause(self, run_id: str) -> Run:
        """Hold a run; one that is paused already stays so."""
        run = self.store.get(run_id)
        if run.state is not RunState.PAUSED:
            await self._controller_of(run).pause()
        return run

    async def resume(self, run_id: str) -> Run:
        """Continue a paused run, or queue a failed or cancelled one again to go on from its saved state."""
        run = self.store.get(run_id)
        if run.state in (RunState.FAILED, RunState.CANCELLED):
            run.apply(RunEvent.RESUME, "going on from the saved state")
            self._tell_queue()
            self._queued.set()
        elif run.state is RunState.STARTING and run.record.paused:  # its attempt was lost in the pause
            run.forget_pause()
        elif run.state is not RunState.RUNNING:
            await self._controller_of(run).resume()
        return run

    def _controller_of(self, run: Run) -> RunController:
        if self._controller is None or self._controller.run is not run:
            raise Conflict(f"run {run.id} is {run.state.value}; only a run that is at work can be steered")
        return self._controller

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
        ahead = self._active[0] if self._active is not None else waiting[0]
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
        structlog.contextvars.bind_contextvars(run_id=run.id)
        task = asyncio.create_task(self._drive_prepared(run), name=f"drive:{run.id}")
        self._active = (run, task)
        self._tell_queue()
        try:
            await asyncio.wait({task})
            if not task.cancelled() and (error := task.exception()) is not None:
                log.error("run_controller_failed", exc_info=error)
                if not run.state.terminal:
                    run.apply(RunEvent.FAIL, f"the coordinator failed ({type(error).__name__}); see its log")
                write_summary(run)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self._active = self._controller = None
            self._prepared.pop(run.id, None)
            self._checked.discard(run.id)
            structlog.contextvars.unbind_contextvars("run_id")
            log.info("run_left", run_id=run.id, state=run.state, reason=run.record.reason)

    async def _drive_prepared(self, run: Run) -> None:
        try:
            prepared = self._prepared.get(run.id)
            if prepared is None or not prepared.seed.folder.is_dir():  # a copy may have gone while the run waited
                prepared = await self._prepare_again(run)
            if prepared.rollouts is not None and prepared.rollouts.origin != run.record.rollouts:
                raise RunFailed(f"{prepared.rollouts.origin.path} is not the file that was submitted; submit a new run")
        except SynclineError as error:  # the files may have changed since the submission
            run.apply(RunEvent.FAIL, error.message)
            write_summary(run)
            return
        self._controller = RunController(run, prepared, redis=self._redis, fleet=self._fleet, settings=self._settings)
        checking = None if run.id in self._checked else asyncio.create_task(self._check_when_possible(run, prepared))
        try:
            await self._controller.drive()
        finally:
            if checking is not None:
                checking.cancel()
                await asyncio.gather(checking, return_exceptions=True)

    async def _prepare_again(self, run: Run) -> Prepared:
        """What was prepared in another life of this process. A store that is away is asked again for a while: a run
        must not fail because both were started anew at the same time."""
        for pause_s in islice(_WHILE_THE_STORE_IS_AWAY.pauses(), self._settings.max_attempts - 1):
            try:
                return await self._prepare(run.spec)
            except StoreUnreachable as error:
                run.say(error.message)
                await asyncio.sleep(pause_s)
        return await self._prepare(run.spec)

    async def _prepare(self, spec: runspec.RunSpec) -> Prepared:
        live = self._fleet.roles["reward"]
        offered = frozenset(name for member in live for name in member.status.get("rewards", ())) if live else None
        prepared = await asyncio.to_thread(
            prepare,
            spec,
            self._settings,
            cache=self._cache,
            rewards=offered,
            find_checkpoint=lambda run_id, which: checkpoint_place(self.store.get(run_id), which),
        )
        return prepared

    async def _check(self, prepared: Prepared) -> Checked:
        return await check_rewards(prepared.spec, self._fleet.roles["reward"], rows=prepared.rows_by_field)

    async def _check_when_possible(self, run: Run, prepared: Prepared) -> None:
        """What no reward service could check at submission is checked when one is there, and fails the run then."""
        try:
            checked = await self._check(prepared)
            while not checked.complete:
                await asyncio.sleep(_LOOK_AGAIN_S)
                checked = await self._check(prepared)
        except InvalidSpec as error:
            run.apply(RunEvent.FAIL, error.message)
            assert self._active is not None
            self._active[1].cancel()
            return
        self._checked.add(run.id)
        run.withdraw(UNCHECKED.path)
        if checked.warnings:
            run.warn(checked.warnings)

    def count(self) -> Counter[RunState]:
        """Runs by state."""
        return Counter(run.state for run in self.store.all())
