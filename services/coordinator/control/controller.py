"""Drives one run from its record to a terminal state: attempts, until one ends the training.

When the learner goes away, another attempt goes on from the saved state.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.coordinator.cluster.fleet import Fleet
from services.coordinator.control.attempt import Attempt, Work
from services.coordinator.records import idle_tasks
from services.coordinator.records.best import tidy
from services.coordinator.records.run import Run
from services.coordinator.records.summary import write_summary
from services.coordinator.settings import CoordinatorSettings
from services.coordinator.submission.prepared import Prepared
from services.coordinator.work.prompts import Encode, PromptPlan, held_out
from services.coordinator.work.seed_model import encoder
from services.coordinator.work.sources import LivePrompts, RecordedGroups, Source
from syncline.errors import Busy, RunFailed, SynclineError, Unavailable
from syncline.redis_client import CONNECTION_ERRORS
from syncline.state import RunEvent, RunState
from syncline.streams import Streams

_LOOK_AGAIN_S = 0.25
_LONGEST_BACKOFF_S = 30.0


class RunController:
    """Owns one run while it is active."""

    def __init__(
        self, run: Run, prepared: Prepared, *, redis: Redis, fleet: Fleet, settings: CoordinatorSettings
    ) -> None:
        self.run = run
        self._prepared = prepared
        self._redis = redis
        self._fleet = fleet
        self._settings = settings
        self.attempt: Attempt | None = None
        """The one at work."""

    async def drive(self) -> None:
        """Bring the run to a terminal state. Cancelling this coroutine leaves the state to the caller."""
        try:
            self.run.apply(RunEvent.START if self.run.state is RunState.PENDING else RunEvent.LOSE_ATTEMPT)
            await self._train(await self._prepare())
            await asyncio.to_thread(tidy, self.run)
            self.run.apply(RunEvent.SUCCEED, idle_tasks.ending(self.run.series["steps"]))
        except SynclineError as error:
            if not self.run.state.terminal:  # a cancellation may have come first
                self.run.apply(RunEvent.FAIL, error.message)
        finally:
            await self._clean_up()

    async def _prepare(self) -> Work:
        spec, context = self.run.spec, self._prepared.context
        encode = await asyncio.to_thread(encoder, self._prepared.seed.folder)
        source = self._source(encode)
        await asyncio.to_thread(source.payloads, 0, 0)  # the first batch shows a task without a usable prompt
        self.run.skip_prompts(source.too_long)
        return Work(
            source,
            {
                evaluation.name: held_out(
                    evaluation.name,
                    self._prepared.evaluation_rows[evaluation.name],
                    encode,
                    room=context - spec.max_tokens_of(evaluation),
                )
                for evaluation in spec.evaluation
            },
        )

    def _source(self, encode: Encode) -> Source:
        spec, prepared = self.run.spec, self._prepared
        if prepared.rollouts is not None:
            return RecordedGroups(spec, prepared.rollouts, run_id=self.run.id)
        plan = PromptPlan(spec, prepared.rows, encode=encode, context=prepared.context)
        return LivePrompts(spec, plan, run_id=self.run.id)

    async def _train(self, work: Work) -> None:
        """Attempts, until one ends the training. Raises RunFailed when several in a row get no further than others."""
        fruitless, furthest = 0, self.run.record.step
        while True:
            self.run.begin_attempt()
            self.attempt = Attempt(self.run, work, redis=self._redis, fleet=self._fleet, settings=self._settings)
            try:
                await self.attempt.make()
                return
            except Busy as error:  # nothing was begun; it may still save a large model
                self.run.apply(RunEvent.LOSE_ATTEMPT, error.message)
                await asyncio.sleep(_LOOK_AGAIN_S)
            except Unavailable as error:
                fruitless = 1 if self.run.record.step > furthest else fruitless + 1
                furthest = max(furthest, self.run.record.step)
                if fruitless >= self._settings.max_attempts:
                    raise RunFailed(
                        f"{fruitless} attempts in a row got no further than step {furthest}; "
                        f"the last one: {error.message}"
                    ) from error
                self.run.apply(RunEvent.LOSE_ATTEMPT, f"{error.message}; going on from the saved state")
                await asyncio.sleep(min(2.0**fruitless, _LONGEST_BACKOFF_S))

    async def _clean_up(self) -> None:
        self._fleet.want(None)
        with suppress(RedisError, *CONNECTION_ERRORS):
            await Streams(self._redis).close_run(self.run.id)
        if self.run.state.terminal:
            write_summary(self.run)
