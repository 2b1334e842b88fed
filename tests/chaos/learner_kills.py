"""One run of the real learner that is killed again and again at moments drawn from a seed.

The test is coordinator, generator and reward service at once: after every kill it starts another learner, empties
Redis, asks for the same run again, and hands out the groups of the steps that are not in the saved state.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Literal

from redis.asyncio import Redis

from syncline import ids, keys, published
from syncline.errors import SynclineError
from syncline.rpc import Client
from syncline.runspec import RunSpec
from syncline.streams import Streams
from syncline.v1.learner_service_pb2 import StepReport, TrainRequest, TrainResponse
from syncline.v1.learner_service_pb2_grpc import LearnerServiceStub
from tests.chaos.learner_process import start_learner
from tests.integration.learner_world import RUN, groups_of

Moment = Literal["load", "collect", "update", "publish", "save", "any"]
MOMENTS: tuple[Moment, ...] = ("load", "collect", "update", "publish", "save", "any")
_DEADLINE_S = 60.0
_POLL_S = 0.0005


@dataclass(frozen=True, slots=True)
class Kill:
    """`fraction` places the kill within the moment, from its start (0) to its usual end (1)."""

    moment: Moment
    steps_ahead: int
    """Counted from the first step of the attempt."""
    fraction: float


@dataclass(slots=True)
class Outcome:
    """How a run ended, and what was done to it on the way."""

    weights: bytes
    trained: list[tuple[int, int]]
    """(step, prompt index), in the order of training: the exactly-once record."""
    steps: list[int]
    first_steps: list[int]
    """Where each attempt went on."""
    kills: list[str] = field(default_factory=list)
    """What each kill interrupted, by what it left behind."""
    missed: int = 0
    """Steps whose reports were lost on their way and told again."""
    leftovers: list[str] = field(default_factory=list)
    spans: dict[str, float] = field(default_factory=dict)
    """Seconds that the moments took; those of an undisturbed run place the kills."""


def schedule(seed: int) -> list[Kill]:
    """Two to four kills."""
    rng = Random(f"learner kills {seed}")
    return [
        Kill(rng.choice(MOMENTS), steps_ahead=rng.randrange(6), fraction=rng.random()) for _ in range(rng.randint(2, 4))
    ]


async def train(
    redis: Redis, redis_url: str, spec: RunSpec, *, folder: Path, kills: Sequence[Kill] = (), spans: dict[str, float]
) -> Outcome:
    """Train `spec` to its end in `folder`, through all of `kills`. `spans` are those of an undisturbed run."""
    folder.mkdir()
    outcome = Outcome(b"", [], [], [])
    reports: list[StepReport] = []
    waiting = list(kills)
    while True:
        kill = waiting.pop(0) if waiting else None
        async with _attempt(redis, redis_url, spec, folder=folder, kill=kill, spans=spans) as attempt:
            finished = await attempt.run(reports, outcome)
        if finished:
            break
        outcome.kills.append(_interrupted(folder / "run", attempt))
    run = folder / "run"
    outcome.weights = (run / published.name_of(spec.steps) / "model.safetensors").read_bytes()
    outcome.steps = [report.step for report in reports]
    outcome.trained = [(report.step, index) for report in reports for index in report.trained]
    outcome.leftovers = [path.name for kind in ("state", "checkpoints") for path in (run / kind).glob(".*")]
    assert (await Streams(redis).outstanding([keys.scored(RUN)])) == [0], "groups were left on the stream"
    return outcome


class _Attempt:
    """One learner process and one Train call."""

    def __init__(self, redis: Redis, spec: RunSpec, run_dir: Path, kill: Kill | None, spans: dict[str, float]) -> None:
        self.loaded = self.starved = False
        self.spec = spec
        self._redis = redis
        self._streams = Streams(redis)
        self._run_dir = run_dir
        self._kill = kill
        self._spans = spans
        self._killer: asyncio.Task[None] | None = None
        self._target = -1
        self.started = 0.0
        self.process: Any = None
        self.client: Client

    async def run(self, reports: list[StepReport], outcome: Outcome) -> bool:
        """Take in events until the run is finished (True) or the learner is dead (False)."""
        if self._kill is not None and self._kill.moment == "load":
            self._kill_after(self._kill.fraction * self._spans["load"])
        self.started = time.monotonic()
        stub = self.client.stub(LearnerServiceStub)
        request = TrainRequest(
            run_id=RUN, spec_json=self.spec.model_dump_json(), run_dir=str(self._run_dir), reported=len(reports)
        )
        finished = False
        try:
            async with asyncio.timeout(_DEADLINE_S):
                async for event in self.client.stream(stub.Train, request):
                    finished = await self._on_event(event, reports, outcome) or finished
        except SynclineError:
            if self._kill is None:
                raise  # it went away by itself
        if self._killer is not None and not finished:
            await self._killer
        return finished

    async def _on_event(self, event: TrainResponse, reports: list[StepReport], outcome: Outcome) -> bool:
        now = time.monotonic()
        if event.HasField("loaded"):
            first = event.loaded.first_step
            outcome.spans["load"] = now - self.started
            outcome.first_steps.append(first)
            outcome.missed += len(event.loaded.missed)
            del reports[first:]
            reports.extend(event.loaded.missed)
            assert [report.step for report in reports] == list(range(first)), "the record of the run has a gap"
            self.loaded = True
            await self._start(first)
        elif event.HasField("step"):
            reports.append(event.step)
            outcome.spans["update"] = event.step.update_seconds
            await self._admit(event.step.step + 1)
        elif event.HasField("published"):
            outcome.spans["publish"] = event.published.seconds
        elif event.HasField("failed"):
            raise AssertionError(f"the learner failed: {event.failed.message}")
        return event.HasField("finished")

    async def _start(self, first: int) -> None:
        """As the coordinator does: empty what an earlier attempt left, then admit."""
        await self._streams.purge_run(RUN)
        await self._streams.open_run(RUN)
        kill = self._kill
        if kill is not None and first < self.spec.steps:
            self._target = min(first + kill.steps_ahead, self.spec.steps - 1)
            if kill.moment in ("publish", "save"):
                kind = {"publish": "checkpoints/.v*.tmp-*", "save": "state/.step-*.tmp-*"}[kill.moment]
                self._kill_when(lambda: any(self._run_dir.glob(kind)), then_s=kill.fraction * self._spans["publish"])
            elif kill.moment == "any":
                self._kill_after(kill.fraction * self._spans["run"])
        await self._admit(first)

    async def _admit(self, step: int) -> None:
        if step >= self.spec.steps:
            return
        groups = groups_of(self.spec, [step])
        kill = self._kill
        if kill is not None and step == self._target and kill.moment == "collect":
            groups = groups[: int(kill.fraction * len(groups))]
            self.starved = True
        payloads = [group.SerializeToString() for group in groups]
        await self._streams.add_all(keys.scored(RUN), run_id=RUN, payloads=payloads)
        if kill is not None and step == self._target and kill.moment in ("collect", "update"):
            self._kill_after(kill.fraction * 2 * self._spans["update"])

    def _kill_after(self, seconds: float) -> None:
        self._kill_when(lambda: True, then_s=seconds)

    def _kill_when(self, condition: Callable[[], bool], *, then_s: float) -> None:
        async def kill() -> None:
            while not condition():
                await asyncio.sleep(_POLL_S)
            await asyncio.sleep(then_s)
            self.process.kill()

        self._killer = asyncio.create_task(kill())


@asynccontextmanager
async def _attempt(
    redis: Redis, redis_url: str, spec: RunSpec, *, folder: Path, kill: Kill | None, spans: dict[str, float]
) -> AsyncIterator[_Attempt]:
    attempt = _Attempt(redis, spec, folder / "run", kill, spans)
    with tempfile.TemporaryDirectory(prefix="syncline-") as sockets:
        address, name = f"unix:{sockets}/learner.sock", ids.new_member_id("learner")
        environment = {
            "SYNCLINE_MEMBER_ID": name,
            "SYNCLINE_REDIS_URL": redis_url,
            "SYNCLINE_BIND": address,
            "SYNCLINE_DEVICE": "cpu",
        }
        attempt.process = await asyncio.to_thread(start_learner, environment, log=folder / "learner.log")
        attempt.client = Client(address, peer="the learner")
        try:
            async with asyncio.timeout(_DEADLINE_S):
                while not await redis.exists(keys.member("learner", name)):
                    assert attempt.process.is_alive(), "the learner ended before it registered"
                    await asyncio.sleep(0.005)
            yield attempt
        finally:
            if attempt._killer is not None:
                attempt._killer.cancel()
                with suppress(asyncio.CancelledError):
                    await attempt._killer
            attempt.process.kill()
            await attempt.client.close()
            await asyncio.to_thread(attempt.process.join)


def _interrupted(run_dir: Path, attempt: _Attempt) -> str:
    """What a learner was doing when it was killed, by what it left behind."""
    for kind, sign in (
        ("delete", "*/.*.del-*"),
        ("publish", "checkpoints/.v*.tmp-*"),
        ("save", "state/.step-*.tmp-*"),
    ):
        if any(run_dir.glob(sign)):
            return kind if attempt.loaded else f"load, {kind}"
    if not attempt.loaded:
        return "load"
    return "collect" if attempt.starved else "between"
