"""One attempt to train a run: a Train stream of a learner with the upkeep beside it, from Loaded to Finished."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass

from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.coordinator import metrics
from services.coordinator.cluster.fleet import Fleet
from services.coordinator.control import diagnosis
from services.coordinator.control.admission import Admission
from services.coordinator.control.evaluation import Evaluator
from services.coordinator.control.upkeep import Upkeep
from services.coordinator.records import idle_tasks, reports
from services.coordinator.records.best import update_standings
from services.coordinator.records.run import Run
from services.coordinator.settings import CoordinatorSettings
from services.coordinator.work.prompts import PlannedPrompt
from services.coordinator.work.sources import Source
from syncline.algo.schedule import Period
from syncline.errors import Conflict, RunFailed, SynclineError, Unavailable
from syncline.membership import Member
from syncline.redis_client import CONNECTION_ERRORS
from syncline.rpc import Client
from syncline.runspec import RunSpec
from syncline.state import RunEvent, RunState, transition
from syncline.v1.learner_service_pb2 import (
    Loaded,
    StepReport,
    StopRequest,
    TrainRequest,
    TrainResponse,
    UpdateRequest,
)
from syncline.v1.learner_service_pb2_grpc import LearnerServiceStub

_LOOK_AGAIN_S = 0.25
_STOP_DEADLINE_S = 5.0
_UPDATE_DEADLINE_S = 10.0


@dataclass(frozen=True, slots=True)
class Work:
    """What all attempts generate for."""

    source: Source
    held_out: Mapping[str, Sequence[PlannedPrompt]]
    """By evaluation set."""


@dataclass(frozen=True, slots=True)
class _AtWork:
    """A learner that has the run, and the upkeep of what it works on."""

    client: Client
    stub: LearnerServiceStub
    upkeep: Upkeep


class Attempt:
    """Made once. It can be steered once a learner has loaded the run; before, each of these raises Conflict."""

    def __init__(self, run: Run, work: Work, *, redis: Redis, fleet: Fleet, settings: CoordinatorSettings) -> None:
        self._run = run
        self._work = work
        self._redis = redis
        self._fleet = fleet
        self._settings = settings
        self._at_work: _AtWork | None = None

    # -- steering ------------------------------------------------------------------------------------

    async def change_period(self, period: Period) -> None:
        """Another sync period from the next window on of which nothing is admitted yet."""
        async with self._steered().upkeep.change(period) as spec:
            await self._update_learner(spec=spec, paused=self._run.record.paused)

    async def pause(self) -> None:
        """Hold the run: what is generated stays, the learner waits before its next step."""
        transition(self._run.state, RunEvent.PAUSE)  # refuse before the learner is asked
        await self._update_learner(paused=True)
        self._run.apply(RunEvent.PAUSE, "paused on request")

    async def resume(self) -> None:
        """Go on after a pause."""
        transition(self._run.state, RunEvent.RESUME)
        upkeep = self._steered().upkeep
        await self._update_learner(paused=False)
        self._run.apply(RunEvent.RESUME)
        upkeep.progress()

    def _steered(self) -> _AtWork:
        if self._at_work is None:
            raise Conflict(f"no learner has loaded run {self._run.id} at the moment; try again when it is running")
        return self._at_work

    async def _update_learner(self, *, paused: bool, spec: RunSpec | None = None) -> None:
        learner = self._steered()
        spec_json = spec.model_dump_json() if spec else ""
        request = UpdateRequest(run_id=self._run.id, spec_json=spec_json, paused=paused)
        await learner.client.call(learner.stub.Update, request, timeout_s=_UPDATE_DEADLINE_S)

    # -- the attempt ---------------------------------------------------------------------------------

    async def make(self) -> None:
        """Return when training and evaluations are over.

        Raises RunFailed; Busy when the learner still has another run; and Unavailable when it went away, or Redis did
        before there was anything to wait with.
        """
        began = time.monotonic()
        learner = await self._find_learner()
        client = Client(learner.address, peer=learner.id)
        stub = client.stub(LearnerServiceStub)
        request = TrainRequest(
            run_id=self._run.id,
            spec_json=self._run.spec.model_dump_json(),
            run_dir=self._run.storage.uri,
            reported=len(self._run.series["steps"]),
        )
        try:
            async with aclosing(client.stream(stub.Train, request)) as events:
                loaded = await _first_of(events, peer=learner.id)
                self._at_work = _AtWork(client, stub, await self._upkeep_from(loaded))
                await self._begin(loaded, seconds=time.monotonic() - began)
                await self._train(events, self._at_work.upkeep, peer=learner.id)
        finally:
            self._at_work = None
            with suppress(SynclineError):
                stop = StopRequest(run_id=self._run.id, reason="attempt over")
                await client.call(stub.Stop, stop, timeout_s=_STOP_DEADLINE_S)
            await client.close()

    async def _find_learner(self) -> Member:
        """Wait for one, however long it takes: a node is replaced, an image pulled, a quota waited for."""
        since = time.monotonic()
        while not (learners := self._fleet.roles["learner"]):
            reason = diagnosis.waits_for_a_learner(self._fleet)
            if self._run.state is RunState.STARTING and time.monotonic() - since > self._settings.stall_after_s:
                self._run.apply(RunEvent.STALL, reason)
            else:
                self._run.say(reason)
            await asyncio.sleep(_LOOK_AGAIN_S)
        if self._run.state is RunState.STALLED:
            self._run.apply(RunEvent.LOSE_ATTEMPT, "a learner is there; it loads the run")
        return learners[-1]

    async def _upkeep_from(self, loaded: Loaded) -> Upkeep:
        """Go back to where the learner goes on from, with nothing of earlier attempts in the system."""
        run = self._run
        run.rewind(loaded.first_step)
        for report in loaded.missed:
            self._on_step(report)
        run.hold_versions(h.version for h in loaded.published if h.version <= loaded.first_step)
        await update_standings(run)  # before any step: the learner deletes by them
        upkeep = Upkeep(
            run,
            step=loaded.first_step,
            handles=loaded.published,
            admission=Admission(self._redis, run_id=run.id, schedule=run.spec.schedule(), source=self._work.source),
            evaluator=Evaluator(
                self._redis,
                run_id=run.id,
                run_dir=run.folder,
                spec=run.spec,
                prompts=self._work.held_out,
                done=run.series["evaluations"],
                consumer="coordinator",
                lease_s=self._settings.lease_s,
            ),
            redis=self._redis,
            fleet=self._fleet,
            stall_after_s=self._settings.stall_after_s,
        )
        try:
            await upkeep.begin()
        except (RedisError, *CONNECTION_ERRORS) as error:
            raise Unavailable(f"Redis does not answer ({error})") from error
        return upkeep

    async def _begin(self, loaded: Loaded, *, seconds: float) -> None:
        """The run trains from now on, after `seconds` of this attempt."""
        self._run.add_seconds("starting", seconds)
        self._run.apply(RunEvent.TRAIN)
        self._run.emit("message", {"text": f"{loaded.num_parameters:,} parameters, from step {loaded.first_step}"})
        for skipped in loaded.skipped:
            goes_on = f"whole ones; the run goes on from step {loaded.first_step}"
            self._run.emit("warning", {"path": "checkpoints", "problem": skipped, "allowed": goes_on})
        if self._run.record.paused and loaded.first_step < self._run.spec.steps:
            await self.pause()  # an attempt was lost in a pause; the new learner does not know of it

    async def _train(self, events: AsyncIterator[TrainResponse], upkeep: Upkeep, *, peer: str) -> None:
        self._fleet.on_load, self._fleet.on_trouble = upkeep.loaded, upkeep.load_failed
        listening = asyncio.create_task(self._listen(events, upkeep, peer=peer))
        keeping = asyncio.create_task(upkeep.run(), name=f"upkeep:{self._run.id}")
        try:
            done, _ = await asyncio.wait({listening, keeping}, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
        finally:
            self._fleet.on_load, self._fleet.on_trouble = lambda load: None, lambda generator, error: None
            for task in (listening, keeping):
                task.cancel()
            await asyncio.gather(listening, keeping, return_exceptions=True)

    # -- what the learner says -----------------------------------------------------------------------

    async def _listen(self, events: AsyncIterator[TrainResponse], upkeep: Upkeep, *, peer: str) -> None:
        """Take in the learner's events; returns when it has finished."""
        async for response in events:
            kind = response.WhichOneof("event")
            if kind == "published":
                handle = response.published.handle
                self._run.add_seconds("publishing", response.published.seconds)
                self._run.publish(handle.version, digest=handle.manifest_digest)
                upkeep.published(handle)
            elif kind == "step":
                self._on_step(response.step)
                upkeep.stepped(response.step.step + 1)
            elif kind == "finished":
                upkeep.finished()
                return
            elif kind == "failed":
                raise _failed(response)
        raise _left(peer)

    def _on_step(self, report: StepReport) -> None:
        row = reports.step_row(report, sync_period=self._run.spec.schedule().period_at(report.step))
        self._run.reach(report.step + 1)
        self._run.add_seconds("waiting_for_rollouts", report.wait_seconds)
        self._run.add_seconds("updating", report.update_seconds)
        self._run.append("steps", row)
        self._run.append("samples", *reports.sample_rows(report))
        self._run.emit("step", row)
        metrics.observe_step(row)
        if problems := idle_tasks.warnings(self._run.series["steps"]):
            self._run.warn(problems)


async def _first_of(events: AsyncIterator[TrainResponse], *, peer: str) -> Loaded:
    """What a learner says when it has loaded the run."""
    async for response in events:
        if response.HasField("failed"):
            raise _failed(response)
        return response.loaded
    raise _left(peer)


def _failed(response: TrainResponse) -> RunFailed:
    return RunFailed(f"the learner stopped: {response.failed.message}")


def _left(peer: str) -> Unavailable:
    return Unavailable(f"{peer} ended its stream before the run was finished")
