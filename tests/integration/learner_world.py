"""A learner behind real gRPC and a real Redis, in a world where the test is coordinator, generator and reward."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from redis.asyncio import Redis
from safetensors import safe_open

from services.learner.learner import Learner
from services.learner.servicer import LearnerServicer
from services.learner.settings import LearnerSettings
from syncline import keys, published, runspec
from syncline.rpc import Client, Server
from syncline.runspec import RunSpec
from syncline.storage import FolderStorage
from syncline.streams import Streams
from syncline.v1.learner_service_pb2 import DESCRIPTOR, StepReport, TrainRequest, TrainResponse
from syncline.v1.learner_service_pb2_grpc import LearnerServiceStub, add_LearnerServiceServicer_to_server
from syncline.v1.rollout_pb2 import (
    FINISH_REASON_LENGTH,
    FINISH_REASON_STOP,
    PURPOSE_TRAINING,
    VERDICT_STATUS_SCORED,
    PromptTask,
    RolloutGroup,
    Sample,
    ScoredGroup,
    TaskKey,
    Verdict,
    VersionSpan,
)
from tests.integration.tiny_models import EOS, VOCAB_SIZE
from tests.waiting import until

RUN = "learner-test-000000"
SAMPLES = 4


def spec_of(folder: Path, **fields: Any) -> RunSpec:
    """A run of a few quick steps; the learning rate is large, so that weights really move."""
    return runspec.parse(
        {
            "name": "learner-test",
            "model": {"path": str(folder)},
            "algorithm": {"name": "dpo"},
            "sync": {"period": min(2, fields.get("steps", 4))},
            "steps": 4,
            "prompts_per_step": 4,
            "generation": {"samples_per_prompt": SAMPLES},
            "tasks": [{"name": "math", "data": "unused", "reward": {"type": "math"}}],
            "optimizer": {"lr": 1e-3, "eps": 1e-6, "grad_clip": 1.0},
            "checkpoints": {"every": 2},
            **fields,
        }
    )


def scored_group(spec: RunSpec, step: int, index: int, *, version: int | None = None) -> ScoredGroup:
    """The group of (step, index): the same tokens, log-probabilities and rewards whenever it is made.

    Prompts of an index divisible by 4 are all correct; the others hold right and wrong completions.
    """
    rng = Random(f"{step}/{index}")
    version = spec.schedule().version_for_step(step) if version is None else version
    task = PromptTask(
        key=TaskKey(run_id=RUN, step=step, prompt_index=index),
        purpose=PURPOSE_TRAINING,
        version=version,
        prompt_token_ids=[rng.randrange(4, VOCAB_SIZE) for _ in range(rng.randint(2, 5))],
        task=spec.tasks[index % len(spec.tasks)].name,
        prompt_text=f"prompt {step}/{index}",
        answer="85",
    )
    samples = []
    for number in range(SAMPLES):
        ends = number % 2 == 0
        tokens = [rng.randrange(4, VOCAB_SIZE) for _ in range(rng.randint(1, 4))] + [EOS] * ends
        samples.append(
            Sample(
                token_ids=tokens,
                log_probs=[-rng.uniform(0.1, 6.0) for _ in tokens],
                finish_reason=FINISH_REASON_STOP if ends else FINISH_REASON_LENGTH,
                text=f"completion {number}",
                versions=[VersionSpan(version=version, start=0, stop=len(tokens))],
            )
        )
    correct = [True] * SAMPLES if index % 4 == 0 else [True, False, *(rng.random() < 0.5 for _ in range(SAMPLES - 2))]
    return ScoredGroup(
        group=RolloutGroup(task=task, samples=samples, generator="inference-test"),
        verdicts=[Verdict(status=VERDICT_STATUS_SCORED, score=float(one)) for one in correct],
    )


def groups_of(spec: RunSpec, steps: Iterable[int]) -> list[ScoredGroup]:
    """All groups of some steps, in order."""
    return [scored_group(spec, step, index) for step in steps for index in range(spec.prompts_per_step)]


def kinds(events: Iterable[TrainResponse]) -> list[str]:
    """The events in short: loaded 0, step 0, published 1, finished 4, failed."""
    shown = {
        "loaded": lambda event: f"loaded {event.loaded.first_step}",
        "step": lambda event: f"step {event.step.step}",
        "published": lambda event: f"published {event.published.handle.version}",
        "finished": lambda event: f"finished {event.finished.version}",
        "failed": lambda event: f"failed {event.failed.code}",
    }
    return [shown[event.WhichOneof("event") or ""](event) for event in events]


@dataclass
class World:
    """One learner and what the test needs around it."""

    redis: Redis
    learner: Learner
    address: str
    stub: LearnerServiceStub
    run_dir: Path
    uri: str = ""
    """The run's storage, where it is not `run_dir`."""
    events: list[TrainResponse] = field(default_factory=list)

    def request(self, spec: RunSpec, *, run_id: str = RUN) -> TrainRequest:
        return TrainRequest(run_id=run_id, spec_json=spec.model_dump_json(), run_dir=self.uri or str(self.run_dir))

    async def add(self, groups: Iterable[ScoredGroup]) -> None:
        """Put groups on the learner's stream, as the reward service does."""
        streams = Streams(self.redis)
        await streams.open_run(RUN)
        await streams.add_all(keys.scored(RUN), run_id=RUN, payloads=[one.SerializeToString() for one in groups])

    async def train(
        self, spec: RunSpec, *, until: Callable[[TrainResponse], bool] = lambda event: False
    ) -> list[TrainResponse]:
        """The events of one attempt; the client goes away right after the first one that `until` accepts."""
        call = self.stub.Train(self.request(spec))
        events: list[TrainResponse] = []
        async for event in call:
            events.append(event)
            if until(event):
                call.cancel()
                break
        self.events += events
        return events

    async def train_on(self, spec: RunSpec, groups: Iterable[ScoredGroup]) -> list[TrainResponse]:
        await self.add(groups)
        return await self.train(spec)

    async def unacknowledged(self) -> int:
        (count,) = await Streams(self.redis).outstanding([keys.scored(RUN)])
        return count


@asynccontextmanager
async def learner_world(redis: Redis, run_dir: Path, *, uri: str = "", **settings: Any) -> AsyncIterator[World]:
    """A fresh learner on a unix socket, with a run folder of its own and an empty Redis."""
    await redis.flushall()
    learner = Learner(LearnerSettings(**{"lease_s": 5.0, "device": "cpu", **settings}), redis=redis, id="learner-test")
    with tempfile.TemporaryDirectory(prefix="syncline-") as sockets:
        server = Server(f"unix:{sockets}/learner.sock")
        server.add(
            add_LearnerServiceServicer_to_server,
            LearnerServicer(learner),
            name=DESCRIPTOR.services_by_name["LearnerService"].full_name,
        )
        await server.start()
        client = Client(server.address, peer="learner-test")
        try:
            yield World(redis, learner, server.address, client.stub(LearnerServiceStub), run_dir, uri)
        finally:
            await learner.drain()
            await client.close()
            await server.stop(grace_s=0.1)


async def digest_of(redis: Redis, run_dir: Path, spec: RunSpec, groups: Iterable[ScoredGroup]) -> str:
    """What an undisturbed run of `groups` ends with."""
    async with learner_world(redis, run_dir) as world:
        return final_digest(await world.train_on(spec, groups))


def final_digest(events: Sequence[TrainResponse]) -> str:
    """Digest of the manifest of the last published version: the bytes of the weights, and the probe."""
    return next(event.published.handle.manifest_digest for event in reversed(events) if event.HasField("published"))


def steps_of(events: Iterable[TrainResponse]) -> list[StepReport]:
    return [event.step for event in events if event.HasField("step")]


def versions_on_disk(world: World) -> list[int]:
    return published.versions(FolderStorage(world.run_dir))


def version_file(world: World, version: int) -> Path:
    return world.run_dir / published.name_of(version) / "model.safetensors"


def weights(world: World, version: int) -> bytes:
    return version_file(world, version).read_bytes()


def flip_a_byte(path: Path) -> None:
    """Damage a safetensors file so that only its digest tells."""
    content = bytearray(path.read_bytes())
    content[-10] ^= 1
    path.write_bytes(content)
    with safe_open(path, framework="pt") as file:
        assert file.keys()


async def until_idle(world: World) -> None:
    await until(lambda: world.learner.status().phase == "idle")
