"""What must happen in time while a run trains, in one loop that is idempotent.

Admit work, point the fleet at the version with work, send evaluations out and take their
results in, notice what is lost or stuck. The loop wakes when there is news, and four times a
second anyway; a turn that fails for lack of Redis is simply made again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.coordinator import metrics
from services.coordinator.cluster.fleet import Fleet, Load
from services.coordinator.control import diagnosis
from services.coordinator.control.admission import Admission
from services.coordinator.control.assignment import target_version
from services.coordinator.control.dead_letters import DeadLetters
from services.coordinator.control.evaluation import Evaluator
from services.coordinator.records.best import update_standings
from services.coordinator.records.run import Run
from syncline import keys
from syncline.algo.schedule import Period, Schedule
from syncline.errors import StorageError, Unavailable
from syncline.redis_client import CONNECTION_ERRORS
from syncline.runspec import RunSpec
from syncline.state import RunEvent, RunState
from syncline.streams import Streams
from syncline.v1.checkpoint_pb2 import CheckpointHandle
from syncline.v1.rollout_pb2 import ScoredGroup

_TURN_S = 0.25


class Upkeep:
    """The loop of one attempt, whose learner has loaded the run. The controller tells it what the learner says."""

    def __init__(
        self,
        run: Run,
        *,
        step: int,
        handles: Iterable[CheckpointHandle],
        admission: Admission,
        evaluator: Evaluator,
        redis: Redis,
        fleet: Fleet,
        stall_after_s: float,
    ) -> None:
        """The learner works from `step` on, with versions published that `handles` point to."""
        self._run = run
        self._admission = admission
        self._evaluator = evaluator
        self._redis = redis
        self._streams = Streams(redis)
        self._fleet = fleet
        self._stall_after_s = stall_after_s
        self._dead_letters = DeadLetters(redis, run.id)
        # An earlier attempt may have published beyond the saved state; those steps will be made again.
        self._handles = {handle.version: handle for handle in handles if handle.version <= step}
        self._learner_step = step
        self._training_over = False
        self._news = asyncio.Event()  # remembers news that comes while a turn is under way
        self._admitting = asyncio.Lock()
        self._progress_at = time.monotonic()

    async def begin(self) -> None:
        """Leave nothing of earlier attempts in the system."""
        await self._admission.start(self._learner_step)
        await self._dead_letters.skip()

    # -- news --------------------------------------------------------------------------------------

    def published(self, handle: CheckpointHandle) -> None:
        """A version can be loaded from now on."""
        self._handles[handle.version] = handle
        self.progress()

    def stepped(self, learner_step: int) -> None:
        """The learner works on `learner_step` now."""
        self._learner_step = learner_step
        self.progress()

    def finished(self) -> None:
        """The last step is made; what is left are evaluations."""
        self._training_over = True
        self.progress()

    def loaded(self, load: Load) -> None:
        """A generator holds another version."""
        metrics.observe_load(load)
        data = {"swap_seconds": load.response.swap_seconds, "probe_error": load.response.probe_error}
        self._tell_of_fleet({"event": "loaded", "generator": load.generator, "version": load.handle.version, **data})
        self.progress()

    def load_failed(self, generator: str, error: str) -> None:
        """A generator could not take the version."""
        self._tell_of_fleet({"event": "load_failed", "generator": generator, "error": error})

    def _tell_of_fleet(self, data: Mapping[str, Any]) -> None:
        with suppress(StorageError):  # a full disk is the run's trouble, and its next write says so; not the fleet's
            self._run.emit("fleet", dict(data))

    def progress(self) -> None:
        """Something moved: nothing is stalled, and there may be work to do."""
        self._progress_at = time.monotonic()
        self._news.set()

    @asynccontextmanager
    async def change(self, period: Period) -> AsyncIterator[RunSpec]:
        """`async with upkeep.change(n) as spec:` another period from the first window that is not admitted yet.

        Nothing is admitted inside the block, and the change holds when the block ends without an error. Raises what
        `RunSpec.with_period` raises.
        """
        async with self._admitting:
            changed = self._run.spec.with_period(self._admission.next_step, period)
            yield changed
            self._admission.schedule = changed.schedule()  # the learner follows it by now, whatever the disk says
            self._run.change_period(changed)
        self.progress()

    # -- the loop ------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Turn until training is over and every evaluation is in."""
        collecting = asyncio.create_task(self._collect_evaluations(), name="evaluations")
        try:
            while not (self._training_over and not self._evaluator.unfinished(self._handles)):
                self._news.clear()
                try:
                    await self._turn()
                except (RedisError, *CONNECTION_ERRORS) as error:
                    self._stall(f"Redis does not answer ({error})")
                except Unavailable as error:
                    self._stall(error.message)
                if collecting.done():
                    await collecting
                with suppress(TimeoutError):
                    async with asyncio.timeout(_TURN_S):
                        await self._news.wait()
            await update_standings(self._run)  # the last results are in, and perhaps not judged yet
        finally:
            metrics.BACKLOG.set(0)
            collecting.cancel()
            with suppress(asyncio.CancelledError):
                await collecting

    async def _turn(self) -> None:
        if await self._admission.lost():
            self._run.emit("message", {"text": "Redis lost its data; admitting again from the learner's step"})
            self._evaluator.lost()
            await self._admission.start(self._learner_step)
        for version in sorted(self._handles):
            await self._evaluator.start(version)  # before training prompts, so that they are first in the stream
        if not self._training_over and not self._run.record.paused:
            async with self._admitting:
                await self._admission.admit(learner_step=self._learner_step, latest_version=self._latest())
        backlog = await self._backlog()
        latest = self._latest() if self._admission.source.generated else None
        self._point_fleet_at(target_version(backlog, evaluating=self._evaluator.versions, latest=latest))
        await self._replace_dead_letters()
        self._forget_finished_versions(backlog)
        if not self._run.record.paused:
            await self._watch_for_stalls(backlog)

    @property
    def _schedule(self) -> Schedule:
        return self._admission.schedule

    def _latest(self) -> int:
        """Newest published version that the schedule trains on."""
        return max(version for version in self._handles if self._schedule.is_sync_version(version))

    async def _backlog(self) -> dict[int, int]:
        """Prompt tasks that are not answered yet, by version."""
        versions = sorted(self._handles)
        counts = await self._streams.outstanding([keys.prompts(self._run.id, version) for version in versions])
        metrics.BACKLOG.set(sum(counts))
        return dict(zip(versions, counts, strict=True))

    def _point_fleet_at(self, version: int | None) -> None:
        handle = None if version is None else self._handles[version]
        if handle == self._fleet.wanted:
            return
        self._fleet.want(handle)
        if version is None:
            return
        self._progress_at = time.monotonic()
        metrics.POLICY_VERSION.set(version)
        if self._schedule.is_sync_version(version) and version > self._run.record.version:
            self._run.sync(version, at_step=self._learner_step)

    async def _replace_dead_letters(self) -> None:
        """What was given up goes on as a dropped group, so that nobody waits for it."""

        async def hand_over(scored: ScoredGroup) -> None:
            if scored.group.task.key.evaluation:
                self._evaluator.take_in(scored)
            else:
                payload = scored.SerializeToString()
                await self._streams.add(keys.scored(self._run.id), run_id=self._run.id, payload=payload)
            self._progress_at = time.monotonic()

        await self._dead_letters.replace(hand_over)

    def _forget_finished_versions(self, backlog: Mapping[int, int]) -> None:
        """Drop handles that nothing will ask for again: a long s = 1 run must not watch thousands of streams."""
        oldest_needed = self._schedule.version_for_step(min(self._learner_step, self._schedule.steps - 1))
        latest, unfinished = self._latest(), self._evaluator.unfinished(self._handles)
        for version, count in backlog.items():
            if version < min(oldest_needed, latest) and count == 0 and version not in unfinished:
                del self._handles[version]

    async def _collect_evaluations(self) -> None:
        while True:
            try:
                rows = await self._evaluator.collect(wait_s=1.0)
            except (RedisError, *CONNECTION_ERRORS):
                await asyncio.sleep(_TURN_S)
                continue
            for row in rows:
                self._run.append("evaluations", row)
                self._run.emit("evaluation", row)
                metrics.observe_evaluation(row)
            if rows:
                await update_standings(self._run)
                self.progress()

    # -- stalls --------------------------------------------------------------------------------------

    async def _watch_for_stalls(self, backlog: Mapping[int, int]) -> None:
        reason = await diagnosis.blocked(
            self._redis,
            run_id=self._run.id,
            fleet=self._fleet,
            backlog=backlog,
            waiting_s=time.monotonic() - self._progress_at,
            stall_after_s=self._stall_after_s,
        )
        if reason:
            self._stall(reason)
        elif self._run.state is RunState.STALLED:
            self._run.apply(RunEvent.RECOVER)
        else:
            self._run.say(self._fleet.pods_say())  # the run goes on, with fewer pods than it should have

    def _stall(self, reason: str) -> None:
        if self._run.state is RunState.RUNNING:
            self._run.apply(RunEvent.STALL, reason)
        elif self._run.record.reason != reason:
            self._run.say(reason)
