"""The learner's core: at most one attempt at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import structlog
from redis.asyncio import Redis

from services.learner.attempt import Attempt
from services.learner.crew import Crew
from services.learner.settings import LearnerSettings
from syncline import runspec
from syncline.cache import Cache
from syncline.errors import Conflict, SynclineError, Unavailable
from syncline.v1.learner_service_pb2 import LearnerServiceGetStatusResponse, TrainRequest

log = structlog.get_logger()
_STOP_TIMEOUT_S = 60.0


class Learner:
    """Starts and stops attempts, and tells what is going on."""

    def __init__(self, settings: LearnerSettings, *, redis: Redis, id: str, crew: Crew | None = None) -> None:
        self.id = id
        self._crew = crew
        self._settings = settings
        self._redis = redis
        self._cache = Cache(settings.cache_root)
        self._attempt: Attempt | None = None
        self._starting = asyncio.Lock()
        self._draining = False

    async def start(self, request: TrainRequest) -> Attempt:
        """Begin an attempt.

        An earlier attempt of the same run is superseded: its client asks again, as it lost the old stream. Raises
        Conflict while another run is trained.
        """
        async with self._starting:
            if self._draining:
                raise self._leaving()
            if (current := self._attempt) is not None and not current.ended:
                if not current.stopping and current.run_id != request.run_id:
                    raise Conflict(f"learner {self.id} trains run {current.run_id}, step {current.step}; stop it first")
                current.stop(Conflict(f"another Train call took over run {current.run_id}"))
                if not await current.wait(_STOP_TIMEOUT_S):
                    raise Conflict(f"learner {self.id} is still stopping run {current.run_id}; try again later")
            log.info("attempt_started", run=request.run_id)
            self._attempt = Attempt(
                request, settings=self._settings, redis=self._redis, cache=self._cache, crew=self._crew
            )
            return self._attempt

    def stop(self, run_id: str, *, reason: str) -> bool:
        """Stop the attempt of this run; False when there is none."""
        attempt = self._attempt
        if attempt is None or attempt.ended or attempt.run_id != run_id:
            return False
        log.info("stop_asked", run=run_id, reason=reason)
        attempt.stop()
        return True

    def update(self, run_id: str, *, spec_json: str, paused: bool) -> int:
        """Hold or continue a run and follow its changed schedule; returns the step in work. Raises Conflict."""
        attempt = self._attempt
        if attempt is None or attempt.ended or attempt.stopping or attempt.run_id != run_id:
            raise Conflict(f"learner {self.id} does not train run {run_id}")
        if spec_json:
            attempt.reschedule(runspec.parse_json(spec_json))
        (attempt.hold if paused else attempt.release)()
        log.info("run_updated", run=run_id, step=attempt.step, paused=paused, rescheduled=bool(spec_json))
        return attempt.step

    async def drain(self) -> None:
        """Take no more runs and stop the present one; its client is told to go on elsewhere."""
        self._draining = True
        if self._attempt is not None:
            self._attempt.stop(self._leaving())
            await self._attempt.wait(_STOP_TIMEOUT_S)

    def status(self) -> LearnerServiceGetStatusResponse:
        attempt = self._attempt
        if attempt is None or attempt.ended:
            return LearnerServiceGetStatusResponse(id=self.id, phase="idle")
        return LearnerServiceGetStatusResponse(
            id=self.id, run_id=attempt.run_id, step=attempt.step, phase=attempt.phase, detail=attempt.describe()
        )

    def member_status(self) -> Mapping[str, Any]:
        """The same, as it stands in the learner's registration."""
        status = self.status()
        return {"phase": status.phase, "run": status.run_id, "step": status.step, "detail": status.detail}

    def _leaving(self) -> SynclineError:
        if self._crew is not None and self._crew.loss is not None:
            return self._crew.loss
        return Unavailable(f"learner {self.id} is shutting down; start the run on another one, from its saved state")
