"""Drives one run from its record to a terminal state.

One attempt = one Train stream of the learner. Beside it one loop does everything that must
happen in time: admit prompts, point the fleet at the version with work, send evaluations out
and take their results in, notice what is lost or stuck. The loop is idempotent; it wakes
when the learner says something, and four times a second anyway.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.coordinator import diagnosis, metrics, reports
from services.coordinator.admission import Admission
from services.coordinator.assignment import target_version
from services.coordinator.dead_letters import DeadLetters
from services.coordinator.evaluation import Evaluator
from services.coordinator.fleet import Fleet, Load
from services.coordinator.prompts import Encode, PlannedPrompt, PromptPlan, Row
from services.coordinator.seed_model import encoder
from services.coordinator.settings import CoordinatorSettings
from services.coordinator.store import Run
from services.coordinator.submission import Prepared
from services.coordinator.summary import write_summary
from syncline import keys
from syncline.algo.schedule import Period
from syncline.errors import Conflict, RunFailed, SynclineError, Unavailable
from syncline.membership import Member
from syncline.rpc import Client
from syncline.runspec import RunSpec, SyncChange
from syncline.state import RunEvent, RunState, transition
from syncline.streams import CONNECTION_ERRORS, Streams
from syncline.v1.checkpoint_pb2 import CheckpointHandle
from syncline.v1.learner_service_pb2 import (
    Finished,
    Loaded,
    StepReport,
    StopRequest,
    TrainRequest,
    TrainResponse,
    UpdateRequest,
)
from syncline.v1.learner_service_pb2_grpc import LearnerServiceStub

log = structlog.get_logger()
_TICK_S = 0.25
_FIND_LEARNER_DEADLINE_S = 60.0
_STOP_DEADLINE_S = 5.0
_UPDATE_DEADLINE_S = 10.0


class RunController:
    """Owns one run while it is active."""

    def __init__(
        self, run: Run, prepared: Prepared, *, redis: Redis, fleet: Fleet, settings: CoordinatorSettings
    ) -> None:
        self.run = run
        self._spec = prepared.spec
        self._prepared = prepared
        self._schedule = prepared.spec.schedule()
        self._redis = redis
        self._streams = Streams(redis)
        self._fleet = fleet
        self._settings = settings
        self._handles: dict[int, CheckpointHandle] = {}
        self._learner_step = 0
        self._training_over = False
        self._news = asyncio.Event()  # remembers news that comes while the loop is busy
        self._progress_at = time.monotonic()
        self._wanted_since = time.monotonic()
        self._admission: Admission
        self._evaluator: Evaluator
        self._dead_letters = DeadLetters(redis, run.id)
        self._learner: tuple[Client, LearnerServiceStub] | None = None
        self._admitting = asyncio.Lock()
        self._paused = run.state is RunState.PAUSED

    async def drive(self) -> None:
        """Bring the run to a terminal state. Cancelling this coroutine leaves the state to the caller."""
        self.run.apply(RunEvent.START if self.run.state is RunState.PENDING else RunEvent.LOSE_ATTEMPT)
        attempts_without_progress = 0
        try:
            await self._prepare()
            while True:
                step_before = self.run.record.step
                self.run.record.attempts += 1
                try:
                    await self._attempt()
                    break
                except Unavailable as error:
                    attempts_without_progress = (
                        1 if self.run.record.step > step_before else attempts_without_progress + 1
                    )
                    if attempts_without_progress >= self._settings.max_attempts:
                        raise RunFailed(
                            f"{attempts_without_progress} attempts made no step; the last one: {error.message}"
                        ) from error
                    self.run.apply(RunEvent.LOSE_ATTEMPT, f"{error.message}; going on from the saved state")
                    await asyncio.sleep(min(2.0**attempts_without_progress, 30.0))
            self.run.apply(RunEvent.SUCCEED)
        except SynclineError as error:
            self.run.apply(RunEvent.FAIL, error.message)
        finally:
            await self._clean_up()

    async def change_period(self, period: Period) -> None:
        """Another sync period from the next window on of which nothing is admitted yet."""
        async with self._admitting:  # between asking the learner and adopting the change nothing may be admitted
            change = SyncChange(step=self._admission.next_step, period=period)
            earlier = tuple(known for known in self.run.spec.sync.changes if known.step < change.step)
            sync = self.run.spec.sync.model_copy(update={"changes": (*earlier, change)})
            changed = self.run.spec.model_copy(update={"sync": sync})
            await self._update_learner(spec=changed)
            self.run.change_sync(sync.changes)
            self._spec = self.run.spec
            self._schedule = self._admission.schedule = changed.schedule()
        self._news.set()

    async def pause(self) -> None:
        """Hold the run: what is generated stays, the learner waits before its next step."""
        transition(self.run.state, RunEvent.PAUSE)  # refuse before the learner is asked
        await self._update_learner(paused=True)
        self._paused = True
        self.run.apply(RunEvent.PAUSE, "paused on request")

    async def resume(self) -> None:
        """Go on after a pause."""
        transition(self.run.state, RunEvent.RESUME)
        await self._update_learner(paused=False)
        self._paused = False
        self._progress_at = time.monotonic()
        self.run.apply(RunEvent.RESUME)
        self._news.set()

    async def _update_learner(self, *, spec: RunSpec | None = None, paused: bool | None = None) -> None:
        if self._learner is None:
            raise Conflict(f"run {self.run.id} has no learner at the moment; try again when it is running")
        client, stub = self._learner
        request = UpdateRequest(
            run_id=self.run.id,
            spec_json=spec.model_dump_json() if spec else "",
            paused=self._paused if paused is None else paused,
        )
        await client.call(stub.Update, request, timeout_s=_UPDATE_DEADLINE_S)

    async def _prepare(self) -> None:
        encode = await asyncio.to_thread(encoder, Path(self._spec.model.path))
        plan = PromptPlan(self._spec, self._prepared.rows, encode=encode, context=self._prepared.context)
        await asyncio.to_thread(plan.for_step, 0)  # the first batch shows a task without a usable prompt
        self.run.record.skipped_prompts = plan.too_long
        self._admission = Admission(
            self._redis, run_id=self.run.id, spec=self._spec, schedule=self._schedule, plan=plan
        )
        self._evaluator = Evaluator(
            self._redis,
            run_id=self.run.id,
            spec=self._spec,
            prompts={
                evaluation.name: _held_out(
                    evaluation.name,
                    self._prepared.evaluation_rows[evaluation.name],
                    encode,
                    room=self._prepared.context - self._spec.max_tokens_of(evaluation),
                )
                for evaluation in self._spec.evaluation
            },
            consumer="coordinator",
            lease_s=self._settings.lease_s,
        )

    async def _attempt(self) -> None:
        """One Train stream and the loop beside it; returns when training and evaluations are over."""
        self._training_over = False
        learner = await self._find_learner()
        client = Client(learner.address, peer=learner.id)
        stub = client.stub(LearnerServiceStub)
        request = TrainRequest(
            run_id=self.run.id, spec_json=self._spec.model_dump_json(), run_dir=str(self.run.folder.resolve())
        )
        self._fleet.on_load = self._on_load
        self._fleet.on_trouble = lambda generator, error: self.run.emit(
            "fleet", {"generator": generator, "event": "load_failed", "error": error}
        )
        loop: asyncio.Task[None] | None = None
        self._learner = (client, stub)
        try:
            events = client.stream(stub.Train, request)
            async for response in events:
                await self._on_event(response)
                if loop is None and self._handles:
                    loop = asyncio.create_task(self._loop(), name=f"run:{self.run.id}")
                if loop is not None and loop.done():
                    await loop
                self._news.set()
            if not self._training_over:
                raise Unavailable(f"{learner.id} ended its stream before the run was finished")
            if loop is not None:
                await loop
        finally:
            self._learner = None
            if loop is not None:
                loop.cancel()
                with suppress(asyncio.CancelledError, SynclineError):
                    await loop
            with suppress(SynclineError):
                await client.call(
                    stub.Stop, StopRequest(run_id=self.run.id, reason="attempt over"), timeout_s=_STOP_DEADLINE_S
                )
            await client.close()

    async def _find_learner(self) -> Member:
        deadline = time.monotonic() + _FIND_LEARNER_DEADLINE_S
        while time.monotonic() < deadline:
            if learners := self._fleet.roles["learner"]:
                return learners[-1]
            self.run.record.reason = "waiting for a learner to register"
            await asyncio.sleep(_TICK_S)
        raise Unavailable(f"no learner registered within {_FIND_LEARNER_DEADLINE_S:g} s; is the learner running?")

    # -- what the learner says ---------------------------------------------------------------

    async def _on_event(self, response: TrainResponse) -> None:
        kind = response.WhichOneof("event")
        self._progress_at = time.monotonic()
        if kind == "loaded":
            await self._on_loaded(response.loaded)
        elif kind == "published":
            handle = response.published.handle
            self._handles[handle.version] = handle
            reports.add_phase(self.run, "publishing", response.published.seconds)
            self.run.record.published = sorted({*self.run.record.published, handle.version})
            self.run.emit("checkpoint", {"version": handle.version, "digest": handle.manifest_digest})
            self.run.save()
        elif kind == "step":
            self._on_step(response.step)
        elif kind == "finished":
            self._on_finished(response.finished)
        elif kind == "failed":
            raise RunFailed(f"the learner stopped: {response.failed.message}")

    async def _on_loaded(self, loaded: Loaded) -> None:
        # An earlier attempt may have published beyond the saved state; those steps will be made again.
        self._handles = {handle.version: handle for handle in loaded.published if handle.version <= loaded.first_step}
        self._learner_step = loaded.first_step
        self.run.rewind(loaded.first_step)
        self._evaluator.restart(done=self.run.series["evaluations"])
        self.run.record.published = sorted(self._handles)
        await self._admission.start(loaded.first_step)
        if self.run.state is not RunState.RUNNING:
            reports.add_phase(self.run, "starting", time.time() - (self.run.record.started_at or time.time()))
            self.run.apply(RunEvent.TRAIN)
        if self._paused:  # an attempt that was lost in a pause; the new learner does not know of it
            await self.pause()
        self.run.emit("message", {"text": f"{loaded.num_parameters:,} parameters, from step {loaded.first_step}"})
        self._wanted_since = time.monotonic()

    def _on_step(self, report: StepReport) -> None:
        row, samples = reports.step_row(report), reports.sample_rows(report)
        self._learner_step = report.step + 1
        self.run.record.step = report.step + 1
        reports.add_phase(self.run, "waiting_for_rollouts", report.wait_seconds)
        reports.add_phase(self.run, "updating", report.update_seconds)
        self.run.append("steps", row)
        self.run.append("samples", *samples)
        self.run.emit("step", row)
        metrics.observe_step(row)

    def _on_finished(self, finished: Finished) -> None:
        self._training_over = True
        self._learner_step = finished.version
        self.run.save()

    def _on_load(self, load: Load) -> None:
        self._progress_at = time.monotonic()
        metrics.observe_load(load)
        self.run.emit(
            "fleet",
            {
                "event": "loaded",
                "generator": load.generator,
                "version": load.handle.version,
                "swap_seconds": load.response.swap_seconds,
                "probe_error": load.response.probe_error,
            },
        )

    # -- what must happen in time ----------------------------------------------------------------

    async def _loop(self) -> None:
        collecting = asyncio.create_task(self._collect_evaluations(), name="evaluations")
        try:
            while not (self._training_over and not self._evaluator.versions):
                self._news.clear()
                try:
                    await self._tick()
                except (RedisError, *CONNECTION_ERRORS) as error:
                    self._stall(f"Redis does not answer ({error})")
                if collecting.done():
                    await collecting
                with suppress(TimeoutError):
                    async with asyncio.timeout(_TICK_S):
                        await self._news.wait()
        finally:
            collecting.cancel()
            with suppress(asyncio.CancelledError):
                await collecting

    async def _tick(self) -> None:
        if await self._admission.lost():
            self.run.emit("message", {"text": "Redis lost its data; admitting again from the learner's step"})
            await self._admission.start(self._learner_step)
            await self._evaluator.send_again()
        for version in sorted(self._handles):
            await self._evaluator.start(version)  # before training prompts, so that they are first in the stream
        latest = max(version for version in self._handles if self._schedule.is_sync_version(version))
        if not self._training_over and not self._paused:
            async with self._admitting:
                await self._admission.admit(learner_step=self._learner_step, latest_version=latest)
        versions = sorted(self._handles)
        counts = await self._streams.outstanding([keys.prompts(self.run.id, version) for version in versions])
        backlog = dict(zip(versions, counts, strict=True))
        self._point_fleet_at(target_version(backlog, evaluating=self._evaluator.versions, latest=latest))
        for scored in await self._dead_letters.dropped_groups():
            self._progress_at = time.monotonic()
            if scored.group.task.key.evaluation:
                self._evaluator.take_in(scored)
            else:
                await self._streams.add(
                    keys.scored(self.run.id), run_id=self.run.id, payload=scored.SerializeToString()
                )
        self._forget_finished_versions(backlog)
        await self._watch_for_stalls(backlog)

    def _point_fleet_at(self, version: int) -> None:
        handle = self._handles[version]
        if handle == self._fleet.wanted:
            return
        self._fleet.want(handle)
        self._wanted_since = time.monotonic()
        training = self._schedule.is_sync_version(version)
        if training and version > self.run.record.version:
            self.run.record.version = version
            self.run.record.syncs += 1
            self.run.emit("sync", {"version": version, "step": self._learner_step})
        metrics.POLICY_VERSION.set(version)

    def _forget_finished_versions(self, backlog: dict[int, int]) -> None:
        """Drop handles that nothing will ask for again: a long s = 1 run must not watch thousands of streams."""
        oldest_needed = self._schedule.version_for_step(min(self._learner_step, self._schedule.steps - 1))
        latest = max(version for version in self._handles if self._schedule.is_sync_version(version))
        for version, count in backlog.items():
            if version < min(oldest_needed, latest) and count == 0 and version not in self._evaluator.versions:
                del self._handles[version]

    async def _collect_evaluations(self) -> None:
        while True:
            try:
                rows = await self._evaluator.collect(wait_s=1.0)
            except (RedisError, *CONNECTION_ERRORS):
                await asyncio.sleep(_TICK_S)
                continue
            for row in rows:
                self._progress_at = time.monotonic()
                self.run.append("evaluations", row)
                self.run.emit("evaluation", row)
                metrics.observe_evaluation(row)
            if rows:
                self._news.set()

    # -- what may go wrong -------------------------------------------------------------------------

    async def _watch_for_stalls(self, backlog: dict[int, int]) -> None:
        if self._paused:
            return
        waiting_s = time.monotonic() - max(self._progress_at, self._wanted_since)
        reason = await diagnosis.blocked(
            self._redis,
            run_id=self.run.id,
            fleet=self._fleet,
            backlog=backlog,
            waiting_s=waiting_s,
            stall_after_s=self._settings.stall_after_s,
        )
        if reason:
            self._stall(reason)
        elif self.run.state is RunState.STALLED:
            self.run.apply(RunEvent.RECOVER)

    def _stall(self, reason: str) -> None:
        if self.run.state is RunState.RUNNING:
            self.run.apply(RunEvent.STALL, reason)
        elif self.run.record.reason != reason:
            self.run.record.reason = reason

    async def _clean_up(self) -> None:
        self._fleet.want(None)
        self._fleet.on_load = lambda load: None
        self._fleet.on_trouble = lambda generator, error: None
        with suppress(RedisError, *CONNECTION_ERRORS):
            await self._streams.close_run(self.run.id)
        if self.run.state.terminal:
            write_summary(self.run)


def _held_out(name: str, rows: Sequence[Row], encode: Encode, *, room: int) -> list[PlannedPrompt]:
    """The prompts of an evaluation set that fit the model's context."""
    prompts = []
    for index, row in enumerate(rows):
        token_ids, text = encode(row.prompt)
        if len(token_ids) <= room:
            prompts.append(PlannedPrompt(index=index, task=name, token_ids=token_ids, text=text, answer=row.answer))
    if not prompts:
        raise RunFailed(f"evaluation {name!r}: every prompt is too long for the model; shorten max_tokens")
    return prompts
