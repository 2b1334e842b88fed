"""Stream in, stream out: prompt tasks of the held version become rollout groups.

The intake of a version reads only that version's stream, so a task can only be answered by
the right weights. When the version changes a new intake starts at once; the old one ends
with its last read, and what that read still brought goes back to its stream.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress

import structlog
from google.protobuf.message import DecodeError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.inference import metrics
from services.inference.engine import Completion, GroupRequest
from services.inference.generator import Generator, Held
from syncline import keys
from syncline.errors import Conflict, EngineDead, SynclineError
from syncline.redis_client import CONNECTION_ERRORS
from syncline.streams import Entry, StreamConsumer
from syncline.v1.rollout_pb2 import PromptTask, RolloutGroup, Sample, VersionSpan
from syncline.wire_names import FINISH_REASON

log = structlog.get_logger()
_READ_S = 1.0
_BACKOFF_S = 0.5


class Worker:
    """Feeds the generator from the stream of the version that it holds."""

    def __init__(self, generator: Generator, redis: Redis, *, member_id: str, lease_s: float) -> None:
        self._generator = generator
        self._redis = redis
        self._member_id = member_id
        self._lease_s = lease_s
        self._intakes: set[asyncio.Task[None]] = set()
        self._groups: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Start an intake for each version that comes to be held, until cancelled."""
        generator, seen = self._generator, 0
        try:
            while True:
                await generator.changed.wait_until(lambda: generator.loads > seen)  # noqa: B023
                seen, held = generator.loads, generator.held
                if held is not None:
                    task = asyncio.create_task(self._intake(held), name=f"intake:{held.version}")
                    self._intakes.add(task)
                    task.add_done_callback(self._ended)
        finally:
            for task in (*self._intakes, *self._groups):
                task.cancel()
            await asyncio.gather(*self._intakes, *self._groups, return_exceptions=True)

    async def drain(self, *, finish_s: float = 0.0) -> int:
        """Take no more work, finish for `finish_s` what is in the engine, under its leases, and hand back the rest.

        Returns how many groups were handed back.
        """
        await self._generator.drain()
        if self._groups and finish_s > 0:
            await asyncio.wait(self._groups, timeout=finish_s)
        groups = list(self._groups)
        for task in groups:
            task.cancel()
        await asyncio.gather(*groups, return_exceptions=True)
        return len(groups)

    async def _intake(self, held: Held) -> None:
        consumer = StreamConsumer(
            self._redis,
            stream=keys.prompts(held.run_id, held.version),
            group=keys.INFERENCE_GROUP,
            consumer=self._member_id,
            run_id=held.run_id,
            lease_s=self._lease_s,
        )
        leased: dict[str, Entry] = {}
        own: set[asyncio.Task[None]] = set()
        watcher = asyncio.create_task(self._abort_when_closed(held), name=f"closed:{held.run_id}")
        try:
            async with consumer.leased(leased):
                while self._generator.serves(held):
                    try:
                        own |= await self._take(held, consumer, leased)
                        own -= {task for task in own if task.done()}
                    except (RedisError, *CONNECTION_ERRORS) as error:
                        log.warning("redis_away", error=str(error))
                        await asyncio.sleep(_BACKOFF_S)
                await asyncio.gather(*own, return_exceptions=True)  # leases are kept until they are done
                await consumer.hand_back(leased.values())  # groups that were cancelled before they began
        finally:
            watcher.cancel()

    async def _take(self, held: Held, consumer: StreamConsumer, leased: dict[str, Entry]) -> set[asyncio.Task[None]]:
        """Read once and start what came; returns the started groups."""
        generator = self._generator

        def free() -> int:
            return generator.engine.concurrency - generator.running

        await generator.changed.wait_until(lambda: free() > 0 or not generator.serves(held))
        entries = await consumer.take(free(), wait_s=_READ_S)
        if not self._generator.serves(held):
            await consumer.hand_back(entries)
            return set()
        leased.update((entry.id, entry) for entry in entries)
        started = {
            asyncio.create_task(self._group(held, consumer, entry, leased), name=f"group:{entry.id}")
            for entry in entries
        }
        self._groups |= started
        for task in started:
            task.add_done_callback(self._groups.discard)
        await asyncio.sleep(0)  # let the groups enter the engine before the next look at what is free
        return started

    async def _group(self, held: Held, consumer: StreamConsumer, entry: Entry, leased: dict[str, Entry]) -> None:
        try:
            task = PromptTask.FromString(entry.payload)
            group = await generate(self._generator, held, task, member_id=self._member_id)
            outcome = await consumer.hand_over(
                entry, run_id=task.key.run_id, to=keys.ROLLOUTS, payload=group.SerializeToString()
            )
            metrics.GROUPS.labels(outcome).inc()
            metrics.TOKENS.inc(sum(len(sample.token_ids) for sample in group.samples))
        except (asyncio.CancelledError, Conflict, EngineDead):
            with suppress(RedisError, *CONNECTION_ERRORS):
                await asyncio.shield(consumer.hand_back([entry]))
            metrics.GROUPS.labels("handed_back").inc()
        except (DecodeError, SynclineError) as error:
            await _fail(consumer, entry, cause=str(error))
        except (RedisError, *CONNECTION_ERRORS) as error:
            log.warning("hand_over_failed", entry=entry.id, error=str(error))  # its lease will run out
        except Exception as error:  # a bug: told at once, rather than by ten leases that run out
            log.error("group_failed_by_a_bug", entry=entry.id, exc_info=error)
            await _fail(consumer, entry, cause=f"{type(error).__name__} in the generator")
        finally:
            leased.pop(entry.id, None)

    async def _abort_when_closed(self, held: Held) -> None:
        """A cancelled run must not keep the engine busy with completions that nobody wants."""
        while True:
            await asyncio.sleep(_READ_S)
            with suppress(RedisError, *CONNECTION_ERRORS):
                if self._generator.running and not await self._redis.sismember(keys.OPEN_RUNS, held.run_id):
                    log.info("run_closed_aborting_groups", run_id=held.run_id, groups=len(self._groups))
                    for task in self._groups:
                        task.cancel()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._intakes.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("intake_failed", exc_info=error)


async def _fail(consumer: StreamConsumer, entry: Entry, *, cause: str) -> None:
    log.warning("group_failed", entry=entry.id, deliveries=entry.deliveries, error=cause)
    with suppress(RedisError, *CONNECTION_ERRORS):  # its lease will run out
        metrics.GROUPS.labels(await consumer.fail(entry, cause=cause)).inc()


async def generate(generator: Generator, held: Held, task: PromptTask, *, member_id: str) -> RolloutGroup:
    """Answer one task.

    Raises SynclineError for a task of another version than `held`, and Conflict when that is not held any more.
    """
    if (task.key.run_id, task.version) != (held.run_id, held.version):
        raise SynclineError(f"a task of version {task.version} lies on the stream of version {held.version}")
    request = GroupRequest(
        prompt_token_ids=tuple(task.prompt_token_ids),
        seeds=tuple(task.seeds),
        max_tokens=task.sampling.max_tokens,
        temperature=task.sampling.temperature,
        top_p=task.sampling.top_p,
    )
    started = time.monotonic()
    name = f"prompt {task.key.prompt_index} of step {task.key.step} of {task.key.run_id}"
    completions = await generator.generate(held, request, name=name)
    return RolloutGroup(
        task=task,
        samples=_samples(completions, held.version),
        generator=member_id,
        generate_seconds=time.monotonic() - started,
        manifest_digest=held.manifest_digest,
    )


def _samples(completions: Sequence[tuple[Completion, str]], version: int) -> list[Sample]:
    return [
        Sample(
            token_ids=completion.token_ids,
            log_probs=completion.log_probs,
            finish_reason=FINISH_REASON[completion.finish_reason],
            text=text,
            versions=[VersionSpan(version=version, start=0, stop=len(completion.token_ids))],
        )
        for completion, text in completions
    ]
