"""A generator serves only what it has proven, and answers only from the stream of that version."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from redis.asyncio import Redis

from services.inference.engine import Completion, GroupRequest
from services.inference.engines import create_engine
from services.inference.engines.transformers import TransformersEngine
from services.inference.generator import Generator
from services.inference.servicer import InferenceServicer
from services.inference.worker import Worker
from syncline import keys, rpc
from syncline.cache import Cache
from syncline.errors import CheckpointError, Conflict, DigestMismatch, EngineDead, ProbeMismatch, Unavailable
from syncline.streams import Streams
from syncline.v1 import inference_service_pb2 as pb
from syncline.v1.checkpoint_pb2 import CheckpointHandle
from syncline.v1.inference_service_pb2_grpc import InferenceServiceStub, add_InferenceServiceServicer_to_server
from syncline.v1.rollout_pb2 import PURPOSE_TRAINING, PromptTask, RolloutGroup, SamplingParams, TaskKey
from tests.integration.published import publish
from tests.integration.tiny_models import make_tiny_model
from tests.waiting import until

RUN = "run-1"
LEASE_S = 1.0


@pytest.fixture(scope="module")
def handles(tmp_path_factory: pytest.TempPathFactory) -> list[CheckpointHandle]:
    """Versions 0 and 1 of one model."""
    root = tmp_path_factory.mktemp("models")
    models = [make_tiny_model(root / f"model-{seed}", seed=seed, tied=True) for seed in range(2)]
    return [publish(root / "run", model, version=version) for version, model in enumerate(models)]


@pytest.fixture
async def generator() -> AsyncIterator[Generator]:
    generator = Generator(create_engine("transformers"), cache=Cache(Path("never-made")))
    yield generator
    await generator.close()


@asynccontextmanager
async def working(generator: Generator, redis: Redis, name: str = "generator") -> AsyncIterator[Worker]:
    worker = Worker(generator, redis, member_id=name, lease_s=LEASE_S)
    task = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def task(index: int, *, version: int = 0, max_tokens: int = 8) -> PromptTask:
    return PromptTask(
        key=TaskKey(run_id=RUN, step=version, prompt_index=index),
        purpose=PURPOSE_TRAINING,
        version=version,
        prompt_token_ids=[10 + index % 20, 20, 30],
        sampling=SamplingParams(temperature=1.0, top_p=1.0, max_tokens=max_tokens),
        seeds=[index * 10 + n for n in range(4)],
    )


async def admit(redis: Redis, tasks: list[PromptTask], *, version: int = 0) -> Streams:
    streams = Streams(redis)
    await streams.open_run(RUN)
    await streams.add_all(keys.prompts(RUN, version), run_id=RUN, payloads=[t.SerializeToString() for t in tasks])
    return streams


async def groups(redis: Redis, count: int, *, within_s: float = 30.0) -> list[RolloutGroup]:
    """Wait for `count` rollout groups, in prompt order."""
    async with asyncio.timeout(within_s):
        while (found := int(await redis.xlen(keys.ROLLOUTS))) < count:
            await asyncio.sleep(0.02)
    assert found == count
    entries = await redis.xrange(keys.ROLLOUTS)
    return sorted((RolloutGroup.FromString(f[b"p"]) for _, f in entries), key=lambda g: g.task.key.prompt_index)


async def test_a_group_carries_its_tokens_log_probabilities_text_and_version(
    generator: Generator, redis: Redis, handles: list[CheckpointHandle]
) -> None:
    await generator.load(handles[0])
    async with working(generator, redis):
        streams = await admit(redis, [task(0)])
        (group,) = await groups(redis, 1)
    assert group.generator == "generator"
    assert len(group.samples) == 4
    for sample in group.samples:
        assert 1 <= len(sample.token_ids) == len(sample.log_probs) <= 8
        assert all(value <= 0 for value in sample.log_probs)
        assert [(span.version, span.start, span.stop) for span in sample.versions] == [(0, 0, len(sample.token_ids))]
        assert sample.text
    assert await streams.outstanding([keys.prompts(RUN, 0)]) == [0]


async def test_only_the_held_versions_stream_is_answered_until_the_next_load(
    generator: Generator, redis: Redis, handles: list[CheckpointHandle]
) -> None:
    streams = await admit(redis, [task(0, version=0)])
    await admit(redis, [task(1, version=1)], version=1)
    async with working(generator, redis):
        await generator.load(handles[1])
        assert [group.task.version for group in await groups(redis, 1)] == [1]
        assert await streams.outstanding([keys.prompts(RUN, 0)]) == [1], "version 0 waits for who holds it"
        await generator.load(handles[0])
        assert [group.task.version for group in await groups(redis, 2)] == [0, 1]


async def test_who_generates_does_not_matter(redis: Redis, handles: list[CheckpointHandle]) -> None:
    tasks = [task(index) for index in range(12)]

    async def samples(names: list[str]) -> list[bytes]:
        await redis.flushall()
        generators = [Generator(create_engine("transformers"), cache=Cache(Path("never-made"))) for _ in names]
        for each in generators:
            await each.load(handles[0])
        await admit(redis, tasks)
        workers = [working(each, redis, name) for each, name in zip(generators, names, strict=True)]
        for worker in workers:
            await worker.__aenter__()
        found = await groups(redis, len(tasks))
        for worker, each in zip(workers, generators, strict=True):
            await worker.__aexit__(None, None, None)
            await each.close()
        return [sample.SerializeToString(deterministic=True) for group in found for sample in group.samples]

    assert await samples(["alone"]) == await samples(["one", "two", "three"])


async def test_a_wrong_digest_is_refused_before_the_engine_is_touched(
    generator: Generator, redis: Redis, handles: list[CheckpointHandle]
) -> None:
    await generator.load(handles[0])
    forged = CheckpointHandle()
    forged.CopyFrom(handles[1])
    forged.manifest_digest = "0" * 64
    with pytest.raises(DigestMismatch, match="the handle says 0000"):
        await generator.load(forged)
    # Then the old version still serves
    await generator.check()
    async with working(generator, redis):
        await admit(redis, [task(0)])
        await groups(redis, 1)


async def test_a_probe_that_differs_is_an_error_with_both_numbers_and_nothing_is_served(
    generator: Generator, handles: list[CheckpointHandle]
) -> None:
    await generator.load(handles[0])
    forged = CheckpointHandle()
    forged.CopyFrom(handles[1])
    forged.probe.log_probs[3] = -1.25
    with pytest.raises(ProbeMismatch, match=r"token 4 .* computes log-probability -\d+\.\d+, the learner -1\.250000"):
        await generator.load(forged)
    assert generator.held is None
    with pytest.raises(EngineDead, match="the generator is failed"):
        await generator.check()
    # And an honest checkpoint mends it
    await generator.load(handles[0])
    await generator.check()


class StuckEngine(TransformersEngine):
    """An engine that takes groups and never finishes one, until it is closed."""

    def __init__(self) -> None:
        super().__init__(TransformersEngine.Options())
        self.closed = asyncio.Event()

    async def generate(self, request: GroupRequest) -> tuple[Completion, ...]:
        await self.closed.wait()
        raise EngineDead("the engine was closed")

    async def close(self) -> None:
        self.closed.set()
        await super().close()


async def test_groups_that_never_end_are_named_and_handed_back_and_the_next_load_builds_the_engine_anew(
    redis: Redis, handles: list[CheckpointHandle]
) -> None:
    generator = Generator(StuckEngine(), cache=Cache(Path("never-made")), groups_deadline_s=0.5)
    await generator.load(handles[0])
    async with working(generator, redis):
        streams = await admit(redis, [task(7)])
        await until(lambda: generator.running == 1)
        with pytest.raises(EngineDead, match=r"did not finish prompt 7 of step 0 of run-1 within 0\.5 s"):
            await generator.load(handles[1])
        await until(lambda: generator.running == 0)
    assert await streams.outstanding([keys.prompts(RUN, 0)]) == [1]
    assert generator.held is None
    await generator.load(handles[1])
    await generator.check()
    await generator.close()


class BrokenEngine(TransformersEngine):
    """Raises what no engine should."""

    def __init__(self) -> None:
        super().__init__()
        self.breaks_in: set[str] = set()

    async def load(self, model_dir: Path, *, dtype: str) -> None:
        if "load" in self.breaks_in:
            raise RuntimeError("CUDA error: out of memory")
        await super().load(model_dir, dtype=dtype)

    async def generate(self, request: GroupRequest) -> tuple[Completion, ...]:
        if "generate" in self.breaks_in:
            raise RuntimeError("CUDA error: device-side assert triggered")
        return await super().generate(request)


async def test_an_engine_that_fails_outside_its_contract_while_loading_says_why_and_is_built_anew(
    handles: list[CheckpointHandle],
) -> None:
    engine = BrokenEngine()
    generator = Generator(engine, cache=Cache(Path("never-made")))
    engine.breaks_in = {"load"}
    with pytest.raises(EngineDead, match="loading version 0 failed by RuntimeError: CUDA error: out of memory"):
        await generator.load(handles[0])
    assert (generator.phase, generator.held) == ("failed", None)
    assert "out of memory" in generator.error
    # when the next load works, nothing is left of it
    engine.breaks_in = set()
    await generator.load(handles[0])
    assert (generator.phase, generator.error) == ("serving", "")
    await generator.close()


async def test_a_group_that_the_engine_fails_on_is_dead_after_three_deliveries_and_the_status_says_why(
    redis: Redis, handles: list[CheckpointHandle]
) -> None:
    engine = BrokenEngine()
    generator = Generator(engine, cache=Cache(Path("never-made")))
    await generator.load(handles[0])
    engine.breaks_in = {"generate"}
    async with working(generator, redis):
        await admit(redis, [task(0)])
        async with asyncio.timeout(10 * LEASE_S):  # no lease has to run out
            while not await redis.xlen(keys.dead(RUN)):
                await asyncio.sleep(0.02)
        [(_, letter)] = await redis.xrange(keys.dead(RUN))
        assert b"RuntimeError: CUDA error: device-side assert triggered" in letter[b"cause"]
        assert int(letter[b"deliveries"]) == 3
        assert "prompt 0 of step 0 of run-1 failed by RuntimeError" in generator.error
        # when a later group ends well, it is the generator's trouble no more
        engine.breaks_in = set()
        await admit(redis, [task(1)])
        await groups(redis, 1)
        assert (generator.phase, generator.error) == ("serving", "")
    await generator.close()


async def test_a_drain_hands_back_what_is_not_finished_and_another_finishes_it(
    redis: Redis, handles: list[CheckpointHandle]
) -> None:
    leaving, staying = (Generator(create_engine("transformers"), cache=Cache(Path("never-made"))) for _ in range(2))
    for each in (leaving, staying):
        await each.load(handles[0])
    tasks = [task(index, max_tokens=200) for index in range(8)]
    async with working(leaving, redis, "leaving") as worker:
        await admit(redis, tasks)
        await until(lambda: leaving.running > 0)
        await worker.drain()
        async with working(staying, redis, "staying"):
            found = await groups(redis, len(tasks))
    assert [group.task.key.prompt_index for group in found] == list(range(8))
    assert "staying" in {group.generator for group in found}
    with pytest.raises(Conflict, match="draining"):
        await leaving.load(handles[1])
    for each in (leaving, staying):
        await each.close()


async def test_a_drain_with_time_finishes_what_is_in_the_engine_and_takes_nothing_new(
    redis: Redis, handles: list[CheckpointHandle]
) -> None:
    leaving, staying = (Generator(create_engine("transformers"), cache=Cache(Path("never-made"))) for _ in range(2))
    for each in (leaving, staying):
        await each.load(handles[0])
    tasks = [task(index, max_tokens=400) for index in range(8)]
    async with working(leaving, redis, "leaving") as worker:
        await admit(redis, tasks)
        await until(lambda: leaving.running > 0)
        under_way, done = leaving.running, leaving.groups_total
        # When it drains beside another one, for longer than its lease would last without being renewed
        draining = asyncio.create_task(worker.drain(finish_s=60.0))
        await until(lambda: leaving.phase == "draining")
        async with working(staying, redis, "staying"):
            found = await groups(redis, len(tasks))
        assert await draining == 0, "nothing had to be handed back"
    # Then the groups that were under way are its own, and the others went to the other one
    assert leaving.groups_total == done + under_way
    assert [group.task.key.prompt_index for group in found] == list(range(8))
    assert sum(group.generator == "leaving" for group in found) == done + under_way
    for each in (leaving, staying):
        await each.close()


async def test_a_generator_without_a_version_is_ready_until_one_is_wanted(
    generator: Generator, handles: list[CheckpointHandle], tmp_path: Path
) -> None:
    await generator.check()
    with pytest.raises(Unavailable, match=r"version 0 of run-1 is wanted, and the generator holds no version yet"):
        await generator.check(wanted="version 0 of run-1")
    # A handle that it cannot read leaves it so, and the reason is there to be read
    unreadable = CheckpointHandle()
    unreadable.CopyFrom(handles[0])
    unreadable.uri = f"file://{tmp_path}/not-mounted"
    with pytest.raises(CheckpointError, match="has no manifest"):
        await generator.load(unreadable)
    assert "has no manifest" in generator.error
    with pytest.raises(Unavailable, match=r"holds no version yet: .*has no manifest"):
        await generator.check(wanted="version 0 of run-1")
    await generator.check()  # when the run is over, it is none the worse
    await generator.load(handles[0])
    await generator.check(wanted="version 0 of run-1")
    assert generator.error == ""


async def test_a_first_load_shows_from_its_first_moment(generator: Generator, handles: list[CheckpointHandle]) -> None:
    phases: list[str] = []
    generator.on_change = lambda: phases.append(generator.phase)
    await generator.load(handles[0])
    assert phases[0] == "loading", "staging 16 GB takes minutes, in which it is not idle"
    assert phases[-1] == "serving"


async def test_a_task_on_the_wrong_stream_is_buried_and_never_answered(
    generator: Generator, redis: Redis, handles: list[CheckpointHandle]
) -> None:
    await generator.load(handles[0])
    async with working(generator, redis):
        await admit(redis, [task(0, version=1)], version=0)
        async with asyncio.timeout(20):
            while not await redis.xlen(keys.dead(RUN)):
                await asyncio.sleep(0.02)
    ((_, letter),) = await redis.xrange(keys.dead(RUN))
    assert letter[b"cause"] == b"a task of version 1 lies on the stream of version 0"
    assert await redis.xlen(keys.ROLLOUTS) == 0


async def test_groups_of_a_cancelled_run_are_aborted(
    generator: Generator, redis: Redis, handles: list[CheckpointHandle]
) -> None:
    await generator.load(handles[0])
    async with working(generator, redis):
        streams = await admit(redis, [task(index, max_tokens=500) for index in range(300)])
        await until(lambda: generator.running > 0)
        await streams.close_run(RUN)
        await until(lambda: generator.running == 0)
    assert await redis.keys(f"{keys.PREFIX}:prompts:*") == []


async def test_the_coordinators_view_over_grpc(
    generator: Generator, redis: Redis, handles: list[CheckpointHandle], tmp_path: Path
) -> None:
    server = rpc.Server(f"unix:{tmp_path}/g.sock")
    worker = Worker(generator, redis, member_id="generator", lease_s=LEASE_S)
    server.add(
        add_InferenceServiceServicer_to_server,
        InferenceServicer(generator, worker, member_id="generator"),
        name="syncline.v1.InferenceService",
    )
    await server.start()
    client = rpc.Client(server.address, peer="generator")
    stub = client.stub(InferenceServiceStub)
    try:
        loaded = await client.call(stub.LoadCheckpoint, pb.LoadCheckpointRequest(handle=handles[0]), timeout_s=30)
        assert 0 <= loaded.probe_error < 1e-3
        status = await client.call(stub.GetStatus, pb.InferenceServiceGetStatusRequest(), timeout_s=5)
        assert (status.phase, status.run_id, status.version) == ("serving", RUN, 0)
        answer = await client.call(stub.Generate, pb.GenerateRequest(task=task(0)), timeout_s=30)
        assert len(answer.group.samples) == 4
        forged = CheckpointHandle(run_id=RUN, version=9, uri="file:///nowhere", manifest_digest="x")
        with pytest.raises(Exception, match=r"generator at unix:.*has no manifest\.json") as refused:
            await client.call(stub.LoadCheckpoint, pb.LoadCheckpointRequest(handle=forged), timeout_s=30)
        assert type(refused.value).__name__ == "CheckpointError", "the peer's own error class arrives"
    finally:
        await client.close()
        await server.stop(grace_s=0.1)
