"""Drives one run from its record to a terminal state.

One attempt = one Train stream of the learner, with the upkeep loop beside it. When the
learner goes away, another attempt goes on from the saved state.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.coordinator import diagnosis, idle_tasks, metrics, reports
from services.coordinator.admission import Admission
from services.coordinator.best import tidy, update_standings
from services.coordinator.evaluation import Evaluator
from services.coordinator.fleet import Fleet
from services.coordinator.prompts import Encode, PromptPlan, held_out
from services.coordinator.run import Run
from services.coordinator.seed_model import encoder
from services.coordinator.settings import CoordinatorSettings
from services.coordinator.sources import LivePrompts, RecordedGroups, Source
from services.coordinator.submission import Prepared
from services.coordinator.summary import write_summary
from services.coordinator.upkeep import Upkeep
from syncline.algo.schedule import Period
from syncline.errors import Busy, Conflict, RunFailed, SynclineError, Unavailable
from syncline.membership import Member
from syncline.redis_client import CONNECTION_ERRORS
from syncline.rpc import Client
from syncline.runspec import RunSpec
from syncline.state import RunEvent, RunState, transition
from syncline.streams import Streams
from syncline.v1.learner_service_pb2 import (
    Loaded,
    StepReport,
    StopRequest,
    TrainRequest,
    TrainResponse,
    UpdateRequest,
)
from syncline.v1.learner_service_pb2_grpc import LearnerServiceStub

log = structlog.get_logger()
_LOOK_AGAIN_S = 0.25
_STOP_DEADLINE_S = 5.0
_UPDATE_DEADLINE_S = 10.0
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
        self._upkeep: Upkeep | None = None
        self._learner: tuple[Client, LearnerServiceStub] | None = None

    async def drive(self) -> None:
        """Bring the run to a terminal state. Cancelling this coroutine leaves the state to the caller."""
        try:
            self.run.apply(RunEvent.START if self.run.state is RunState.PENDING else RunEvent.LOSE_ATTEMPT)
            self._upkeep = await self._prepare()
            await self._train(self._upkeep)
            await asyncio.to_thread(tidy, self.run)
            self.run.apply(RunEvent.SUCCEED, idle_tasks.ending(self.run.series["steps"]))
        except SynclineError as error:
            if not self.run.state.terminal:  # a cancellation may have come first
                self.run.apply(RunEvent.FAIL, error.message)
        finally:
            await self._clean_up()

    # -- steering ------------------------------------------------------------------------------------

    async def change_period(self, period: Period) -> None:
        """Another sync period from the next window on of which nothing is admitted yet."""
        upkeep = self._at_work()
        async with upkeep.change(period) as spec:
            await self._update_learner(spec=spec, paused=self.run.record.paused)

    async def pause(self) -> None:
        """Hold the run: what is generated stays, the learner waits before its next step."""
        transition(self.run.state, RunEvent.PAUSE)  # refuse before the learner is asked
        await self._update_learner(paused=True)
        self.run.apply(RunEvent.PAUSE, "paused on request")

    async def resume(self) -> None:
        """Go on after a pause."""
        transition(self.run.state, RunEvent.RESUME)
        await self._update_learner(paused=False)
        self.run.apply(RunEvent.RESUME)
        self._at_work().progress()

    def _at_work(self) -> Upkeep:
        if self._upkeep is None or self._learner is None:
            raise Conflict(f"run {self.run.id} has no learner at the moment; try again when it is running")
        return self._upkeep

    async def _update_learner(self, *, paused: bool, spec: RunSpec | None = None) -> None:
        self._at_work()
        assert self._learner is not None
        client, stub = self._learner
        spec_json = spec.model_dump_json() if spec else ""
        request = UpdateRequest(run_id=self.run.id, spec_json=spec_json, paused=paused)
        await client.call(stub.Update, request, timeout_s=_UPDATE_DEADLINE_S)

    # -- attempts ------------------------------------------------------------------------------------

    async def _prepare(self) -> Upkeep:
        spec, context = self.run.spec, self._prepared.context
        encode = await asyncio.to_thread(encoder, self._prepared.seed.folder)
        source = self._source(encode)
        await asyncio.to_thread(source.payloads, 0, 0)  # the first batch shows a task without a usable prompt
        self.run.skip_prompts(source.too_long)
        evaluator = Evaluator(
            self._redis,
            run_id=self.run.id,
            run_dir=self.run.folder,
            spec=spec,
            prompts={
                evaluation.name: held_out(
                    evaluation.name,
                    self._prepared.evaluation_rows[evaluation.name],
                    encode,
                    room=context - spec.max_tokens_of(evaluation),
                )
                for evaluation in spec.evaluation
            },
            consumer="coordinator",
            lease_s=self._settings.lease_s,
        )
        admission = Admission(self._redis, run_id=self.run.id, schedule=spec.schedule(), source=source)
        return Upkeep(
            self.run,
            admission=admission,
            evaluator=evaluator,
            redis=self._redis,
            fleet=self._fleet,
            stall_after_s=self._settings.stall_after_s,
        )

    def _source(self, encode: Encode) -> Source:
        spec, prepared = self.run.spec, self._prepared
        if prepared.rollouts is not None:
            return RecordedGroups(spec, prepared.rollouts, run_id=self.run.id)
        plan = PromptPlan(spec, prepared.rows, encode=encode, context=prepared.context)
        return LivePrompts(spec, plan, run_id=self.run.id)

    async def _train(self, upkeep: Upkeep) -> None:
        """Attempts, until one ends the training. Raises RunFailed when several in a row make no step."""
        fruitless = 0
        while True:
            step_before = self.run.record.step
            self.run.begin_attempt()
            try:
                await self._attempt(upkeep)
                return
            except Busy as error:  # nothing was begun; it may still save a large model
                self.run.apply(RunEvent.LOSE_ATTEMPT, error.message)
                await asyncio.sleep(_LOOK_AGAIN_S)
            except Unavailable as error:
                fruitless = 1 if self.run.record.step > step_before else fruitless + 1
                if fruitless >= self._settings.max_attempts:
                    raise RunFailed(f"{fruitless} attempts made no step; the last one: {error.message}") from error
                self.run.apply(RunEvent.LOSE_ATTEMPT, f"{error.message}; going on from the saved state")
                await asyncio.sleep(min(2.0**fruitless, _LONGEST_BACKOFF_S))

    async def _attempt(self, upkeep: Upkeep) -> None:
        """One Train stream and the upkeep beside it; returns when training and evaluations are over."""
        learner = await self._find_learner()
        client = Client(learner.address, peer=learner.id)
        stub = client.stub(LearnerServiceStub)
        request = TrainRequest(
            run_id=self.run.id,
            spec_json=self.run.spec.model_dump_json(),
            run_dir=self.run.storage.uri,
            reported=len(self.run.series["steps"]),
        )
        self._fleet.on_load = upkeep.loaded
        self._fleet.on_trouble = upkeep.load_failed
        self._learner = (client, stub)
        listening = asyncio.create_task(self._listen(client.stream(stub.Train, request), upkeep, peer=learner.id))
        keeping = asyncio.create_task(upkeep.run(), name=f"upkeep:{self.run.id}")
        try:
            done, _ = await asyncio.wait({listening, keeping}, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
        finally:
            self._learner = None
            for task in (listening, keeping):
                task.cancel()
            await asyncio.gather(listening, keeping, return_exceptions=True)
            with suppress(SynclineError):
                stop = StopRequest(run_id=self.run.id, reason="attempt over")
                await client.call(stub.Stop, stop, timeout_s=_STOP_DEADLINE_S)
            await client.close()

    async def _find_learner(self) -> Member:
        """Wait for one, however long it takes: a node is replaced, an image pulled, a quota waited for."""
        since = time.monotonic()
        while not (learners := self._fleet.roles["learner"]):
            reason = diagnosis.waits_for_a_learner(self._fleet)
            if self.run.state is RunState.STARTING and time.monotonic() - since > self._settings.stall_after_s:
                self.run.apply(RunEvent.STALL, reason)
            else:
                self.run.say(reason)
            await asyncio.sleep(_LOOK_AGAIN_S)
        if self.run.state is RunState.STALLED:
            self.run.apply(RunEvent.LOSE_ATTEMPT, "a learner is there; it loads the run")
        return learners[-1]

    # -- what the learner says -----------------------------------------------------------------------

    async def _listen(self, events: AsyncIterator[TrainResponse], upkeep: Upkeep, *, peer: str) -> None:
        """Take in the learner's events; returns when it has finished."""
        async for response in events:
            kind = response.WhichOneof("event")
            if kind == "loaded":
                await self._on_loaded(response.loaded, upkeep)
            elif kind == "published":
                handle = response.published.handle
                self.run.add_seconds("publishing", response.published.seconds)
                self.run.publish(handle.version, digest=handle.manifest_digest)
                upkeep.published(handle)
            elif kind == "step":
                self._on_step(response.step)
                upkeep.stepped(response.step.step + 1)
            elif kind == "finished":
                upkeep.finished()
                return
            elif kind == "failed":
                raise RunFailed(f"the learner stopped: {response.failed.message}")
        raise Unavailable(f"{peer} ended its stream before the run was finished")

    async def _on_loaded(self, loaded: Loaded, upkeep: Upkeep) -> None:
        self.run.rewind(loaded.first_step)
        for report in loaded.missed:
            self._on_step(report)
        self.run.hold_versions(h.version for h in loaded.published if h.version <= loaded.first_step)
        await update_standings(self.run)  # before any step: the learner deletes by them
        try:
            await upkeep.begin(loaded.first_step, loaded.published)
        except (RedisError, *CONNECTION_ERRORS) as error:
            raise Unavailable(f"Redis does not answer ({error})") from error
        if self.run.state is not RunState.RUNNING:
            self.run.add_seconds("starting", time.time() - (self.run.record.started_at or time.time()))
            self.run.apply(RunEvent.TRAIN)
        self.run.emit("message", {"text": f"{loaded.num_parameters:,} parameters, from step {loaded.first_step}"})
        for skipped in loaded.skipped:
            goes_on = f"whole ones; the run goes on from step {loaded.first_step}"
            self.run.emit("warning", {"path": "checkpoints", "problem": skipped, "allowed": goes_on})
        if self.run.record.paused and loaded.first_step < self.run.spec.steps:
            await self.pause()  # an attempt was lost in a pause; the new learner does not know of it

    def _on_step(self, report: StepReport) -> None:
        row = reports.step_row(report, sync_period=self.run.spec.schedule().period_at(report.step))
        self.run.reach(report.step + 1)
        self.run.add_seconds("waiting_for_rollouts", report.wait_seconds)
        self.run.add_seconds("updating", report.update_seconds)
        self.run.append("steps", row)
        self.run.append("samples", *reports.sample_rows(report))
        self.run.emit("step", row)
        metrics.observe_step(row)
        if problems := idle_tasks.warnings(self.run.series["steps"]):
            self.run.warn(problems)

    async def _clean_up(self) -> None:
        self._fleet.want(None)
        self._fleet.on_load = lambda load: None
        self._fleet.on_trouble = lambda generator, error: None
        with suppress(RedisError, *CONNECTION_ERRORS):
            await Streams(self._redis).close_run(self.run.id)
        if self.run.state.terminal:
            write_summary(self.run)
