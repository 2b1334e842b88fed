"""What the service costs: generation from Redis to Redis against the same engine called directly.

64 prompts x 8 samples x 128 tokens, on a Llama of 3.1 million parameters in float32. Both ways use one engine in one
process, alternately, after a warm-up of each; a pair of rounds has the same prompts and seeds. The model has no
end-of-text token, so every completion has all its tokens; each is counted, and another number ends the bench.

directly: `engine.generate` for all groups at once.
service:  prompt tasks are added to the version's stream; `Worker` takes them under leases, `Generator` generates and
          decodes, groups are handed over to the rollouts stream and read there by a consumer, as the reward service
          does. The clock stops when the last group is read.

The ratio is the median over pairs. Not measured: loads, rewards, gRPC, a network between the parts.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

from redis.asyncio import Redis

from services.inference.engine import Engine, GroupRequest
from services.inference.engines import create_engine
from services.inference.generator import Generator
from services.inference.worker import Worker
from syncline import ids, keys, redis_client, streams
from syncline.cache import Cache
from syncline.streams import Entry, StreamConsumer, Streams
from syncline.v1.checkpoint_pb2 import CheckpointHandle
from syncline.v1.rollout_pb2 import PURPOSE_TRAINING, PromptTask, RolloutGroup, SamplingParams, TaskKey
from tests.bench.model import VOCABULARY, make_model
from tests.bench.report import BenchFailed, Figure, Measured, Options
from tests.bench.server import server
from tests.integration.published import publish

RUN = "bench"
PROMPT_TOKENS = 16
TARGET = 0.8
_ROUND_DEADLINE_S = 600.0


@dataclass(frozen=True, slots=True)
class Size:
    """How much is generated in a round, and how many pairs of rounds count."""

    prompts: int
    samples: int
    tokens: int
    pairs: int

    @property
    def round_tokens(self) -> int:
        return self.prompts * self.samples * self.tokens


def measure(options: Options) -> Measured:
    size = Size(4, 2, 8, pairs=1) if options.quick else Size(64, 8, 128, pairs=5)
    with tempfile.TemporaryDirectory(prefix="syncline-") as name, server() as url:
        folder = Path(name)
        handle = publish(folder / "run", make_model(folder / "model", quick=options.quick), version=0, run_id=RUN)
        direct, service = asyncio.run(_measure(options, size, handle, url))
    ratios = [through / straight for straight, through in zip(direct, service, strict=True)]
    ratio = statistics.median(ratios)
    figures = [
        _speed("directly", direct),
        _speed("through the service", service),
        Figure(
            name="service / directly, median of pairs (min to max)",
            value=ratio,
            shown=f"{ratio:.1%} ({min(ratios):.1%} to {max(ratios):.1%})",
            target=f">= {TARGET:.0%}",
            met=ratio >= TARGET,
        ),
    ]
    completions = 2 * (size.pairs + 1) * size.prompts * size.samples
    return Measured(
        figures,
        {
            "engine": options.engine,
            "prompts": size.prompts,
            "samples": size.samples,
            "tokens_per_completion": size.tokens,
            "completions_counted": completions,
            "direct_tokens_per_second": direct,
            "service_tokens_per_second": service,
        },
    )


async def _measure(options: Options, size: Size, handle: CheckpointHandle, url: str) -> tuple[list[float], list[float]]:
    """Tokens per second of each round, directly and through the service; the warm-up is left out."""
    engine = create_engine(options.engine)
    direct: list[float] = []
    service: list[float] = []
    async with _service(engine, handle, url), _client(url) as redis:
        for number in range(size.pairs + 1):
            tasks = _tasks(size, number)
            async with asyncio.timeout(_ROUND_DEADLINE_S):
                direct.append(size.round_tokens / await _directly(engine, tasks))
            async with asyncio.timeout(_ROUND_DEADLINE_S):
                service.append(size.round_tokens / await _through_the_service(redis, tasks))
            what = f"pair {number}" if number else "warm-up"
            options.say(f"  {what}: directly {direct[-1]:,.0f} tokens/s, through the service {service[-1]:,.0f}")
    return direct[1:], service[1:]


async def _directly(engine: Engine, tasks: Sequence[PromptTask]) -> float:
    """Seconds for all tasks."""
    requests = [
        GroupRequest(tuple(task.prompt_token_ids), tuple(task.seeds), max_tokens=task.sampling.max_tokens)
        for task in tasks
    ]
    started = time.perf_counter()
    groups = await asyncio.gather(*(engine.generate(request) for request in requests))
    seconds = time.perf_counter() - started
    _count(tasks, [[len(completion.token_ids) for completion in group] for group in groups])
    return seconds


async def _through_the_service(redis: Redis, tasks: Sequence[PromptTask]) -> float:
    """Seconds for all tasks."""
    payloads = [task.SerializeToString() for task in tasks]
    reader = StreamConsumer(redis, stream=keys.ROLLOUTS, group=keys.REWARD_GROUP, consumer="bench")
    entries: list[Entry] = []
    started = time.perf_counter()
    await Streams(redis).add_all(keys.prompts(RUN, 0), run_id=RUN, payloads=payloads)
    while len(entries) < len(tasks):
        entries += await reader.take(len(tasks), wait_s=1.0)
    seconds = time.perf_counter() - started
    if await reader.ack(entries) != len(entries):
        raise BenchFailed("a rollout group was read after its lease had run out; was the machine asleep?")
    groups = [RolloutGroup.FromString(entry.payload) for entry in entries]
    _count(tasks, [[len(sample.token_ids) for sample in group.samples] for group in groups])
    return seconds


def _count(tasks: Sequence[PromptTask], lengths: Sequence[Sequence[int]]) -> None:
    """Raise unless every task has all its completions, and every completion all its tokens."""
    wanted = [[task.sampling.max_tokens] * len(task.seeds) for task in tasks]
    if list(map(list, lengths)) != wanted:
        found = sorted({length for group in lengths for length in group})
        raise BenchFailed(f"{len(lengths)} groups with completions of {found} tokens are not what was asked for")


def _tasks(size: Size, number: int) -> list[PromptTask]:
    """The tasks of one pair of rounds: prompts and seeds that no other pair has."""
    rng = Random(number)
    return [
        PromptTask(
            key=TaskKey(run_id=RUN, step=number, prompt_index=index),
            purpose=PURPOSE_TRAINING,
            prompt_token_ids=[rng.randrange(VOCABULARY) for _ in range(PROMPT_TOKENS)],
            sampling=SamplingParams(temperature=1.0, top_p=1.0, max_tokens=size.tokens),
            seeds=[
                ids.sample_seed(0, step=number, prompt_index=index, sample_index=sample)
                for sample in range(size.samples)
            ],
            task="bench",
        )
        for index in range(size.prompts)
    ]


def _speed(way: str, speeds: Sequence[float]) -> Figure:
    median = statistics.median(speeds)
    return Figure(
        name=f"{way}, tokens/s (min to max)",
        value=median,
        shown=f"{median:,.0f} ({min(speeds):,.0f} to {max(speeds):,.0f})",
    )


@asynccontextmanager
async def _service(engine: Engine, handle: CheckpointHandle, url: str) -> AsyncIterator[None]:
    """The generator's own parts around the engine, put together as in `services.inference.__main__`."""
    generator = Generator(engine, cache=Cache(Path("never-made")))
    async with _client(url) as redis:
        await Streams(redis).open_run(RUN)
        worker = Worker(generator, redis, member_id="bench", lease_s=streams.DEFAULT_LEASE_S)
        working = asyncio.create_task(worker.run())
        try:
            await generator.load(handle)
            yield
        finally:
            working.cancel()
            with suppress(asyncio.CancelledError):
                await working
            await generator.close()


@asynccontextmanager
async def _client(url: str) -> AsyncIterator[Redis]:
    redis = redis_client.connect(url)
    try:
        yield redis
    finally:
        await redis.aclose()
