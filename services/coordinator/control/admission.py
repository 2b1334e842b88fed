"""Admits the work of steps to Redis: only for published versions, at most one window ahead of the learner.

Nothing else limits the flow, and nothing else has to: what is in the system is bounded by
what was admitted.
"""

from __future__ import annotations

from redis.asyncio import Redis

from services.coordinator.work.sources import Source
from syncline import keys
from syncline.algo.schedule import Schedule
from syncline.errors import Unavailable
from syncline.streams import Streams


class Admission:
    """Admits the training work of one run, each step once unless Redis lost its data."""

    def __init__(self, redis: Redis, *, run_id: str, schedule: Schedule, source: Source) -> None:
        self._redis = redis
        self._streams = Streams(redis)
        self._run_id = run_id
        self.schedule = schedule
        self.source = source
        self.next_step = 0
        """First step that is not admitted yet; Redis holds the same number, or has lost something."""

    async def start(self, step: int) -> None:
        """Begin at `step` with an empty system."""
        await self._streams.purge_run(self._run_id)
        await self._streams.open_run(self._run_id)
        await self._redis.set(keys.admitted(self._run_id), step)
        self.next_step = step

    async def admit(self, *, learner_step: int, latest_version: int) -> range:
        """Admit every step that is admissible and not admitted yet; returns those steps.

        Raises Unavailable when Redis loses its data meanwhile; `lost` says so from then on.
        """
        allowed = self.schedule.admissible_steps(learner_step=learner_step, latest_version=latest_version)
        steps = range(max(self.next_step, allowed.start), allowed.stop)
        for step in steps:
            version = self.schedule.version_for_step(step)
            await self._streams.add_all(
                self.source.stream(version),
                run_id=self._run_id,
                payloads=self.source.payloads(step, version),
            )
            self.next_step = step + 1
            if not await self._redis.set(keys.admitted(self._run_id), self.next_step, xx=True):
                raise Unavailable(f"Redis lost its data while step {step} was admitted")
        return steps

    async def lost(self) -> bool:
        """Whether Redis has lost what was admitted: all of it, or the last seconds before it was killed."""
        return await self._redis.get(keys.admitted(self._run_id)) != str(self.next_step).encode()
