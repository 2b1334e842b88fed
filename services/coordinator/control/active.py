"""The run whose turn it is: found whole, its rewards checked once somebody can, driven to its end."""

from __future__ import annotations

import asyncio

import structlog
from redis.asyncio import Redis

from services.coordinator.cluster.fleet import Fleet
from services.coordinator.control.controller import RunController
from services.coordinator.records.best import lend
from services.coordinator.records.run import Run
from services.coordinator.records.store import RunStore
from services.coordinator.records.summary import write_summary
from services.coordinator.settings import CoordinatorSettings
from services.coordinator.submission.preparation import Preparation
from services.coordinator.submission.prepared import Prepared
from services.coordinator.submission.reward_check import UNCHECKED
from syncline.errors import InvalidSpec, SynclineError
from syncline.state import RunEvent

log = structlog.get_logger()
_LOOK_AGAIN_S = 0.5


class ActiveRun:
    """One turn of a run. It ends when the run is over, or `stop` is called."""

    def __init__(
        self,
        run: Run,
        *,
        prepared: Prepared | None,
        checked: bool,
        preparation: Preparation,
        store: RunStore,
        redis: Redis,
        fleet: Fleet,
        settings: CoordinatorSettings,
    ) -> None:
        """`prepared` at its submission, in this life of the process; `checked` then, if a reward service was there."""
        self.run = run
        self.controller: RunController | None = None
        """Of a run that is prepared."""
        self._prepared = prepared
        self._checked = checked
        self._preparation = preparation
        self._store = store
        self._redis = redis
        self._fleet = fleet
        self._settings = settings
        self._task: asyncio.Task[None] | None = None

    def stop(self) -> None:
        """Whoever calls this has moved the run to its end."""
        if self._task is not None:
            self._task.cancel()

    async def make(self) -> None:
        """Return when the run is over; whatever goes wrong ends the run and not the coordinator."""
        self._task = task = asyncio.create_task(self._drive(), name=f"drive:{self.run.id}")
        try:
            await asyncio.wait({task})
            if not task.cancelled() and (error := task.exception()) is not None:
                log.error("run_controller_failed", exc_info=error)
                if not self.run.state.terminal:
                    self.run.apply(RunEvent.FAIL, f"the coordinator failed ({type(error).__name__}); see its log")
                write_summary(self.run)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _drive(self) -> None:
        run = self.run
        try:
            prepared = await self._find()
            await lend(run, self._store.heirs(run))
        except SynclineError as error:
            run.apply(RunEvent.FAIL, error.message)
            write_summary(run)
            return
        self.controller = RunController(run, prepared, redis=self._redis, fleet=self._fleet, settings=self._settings)
        checking = None if self._checked else asyncio.create_task(self._check(prepared))
        try:
            await self.controller.drive()
        finally:
            if checking is not None:
                checking.cancel()
                await asyncio.gather(checking, return_exceptions=True)

    async def _find(self) -> Prepared:
        if self._prepared is not None and self._prepared.seed.folder.is_dir():
            return self._prepared
        return await self._preparation.prepare_again(self.run)  # a copy may have gone while the run waited

    async def _check(self, prepared: Prepared) -> None:
        """What no reward service could check at submission is checked when one is there, and fails the run then."""
        run = self.run
        try:
            checked = await self._preparation.check(prepared)
            while not checked.complete:
                await asyncio.sleep(_LOOK_AGAIN_S)
                checked = await self._preparation.check(prepared)
        except InvalidSpec as error:
            run.apply(RunEvent.FAIL, error.message)
            self.stop()
            return
        run.withdraw(UNCHECKED.path)
        if checked.warnings:
            run.warn(checked.warnings)
