"""Assembles the groups of one step from the stream: each key once, strictly by the schedule, acknowledged at the end.

Groups of later steps arrive early, as generators run ahead within a window; they are kept under a renewed lease.
A lost Redis is waited out: what is in memory stays, and the coordinator admits anew what was lost.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TypeVar

import structlog
from google.protobuf.message import DecodeError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.learner import door
from syncline import ids, keys
from syncline.insist import insist
from syncline.redis_client import CONNECTION_ERRORS
from syncline.runspec import RunSpec
from syncline.streams import Entry, StreamConsumer
from syncline.v1.checkpoint_pb2 import CheckpointHandle
from syncline.v1.rollout_pb2 import ScoredGroup

log = structlog.get_logger()
Result = TypeVar("Result")
_TAKE_COUNT = 64
_TAKE_WAIT_S = 1.0
_HAND_BACK_S = 2.0


@dataclass(frozen=True, slots=True)
class Collected:
    """A complete step: its groups in the order of their prompt indices, whatever order they arrived in."""

    groups: tuple[ScoredGroup, ...]
    refused: Mapping[str, int]
    """Groups turned away since the last step was complete, by cause."""
    wait_seconds: float


class Collector:
    """The learner's side of `syncline:scored:{run}` for one attempt."""

    def __init__(
        self,
        redis: Redis,
        *,
        run_id: str,
        spec: RunSpec,
        vocabulary: int,
        published: Iterable[CheckpointHandle],
        lease_s: float,
    ) -> None:
        # A name of its own for each attempt: an attempt that was given up can acknowledge nothing of the next one's.
        self._consumer = StreamConsumer(
            redis,
            stream=keys.scored(run_id),
            group=keys.LEARNER_GROUP,
            consumer=ids.new_member_id("attempt"),
            run_id=run_id,
            lease_s=lease_s,
        )
        self._run_id = run_id
        self._spec = spec
        self.schedule = spec.schedule()
        """May be replaced by one that agrees with it on every step that has been admitted."""
        self._weights = {handle.version: handle.manifest_digest for handle in published}
        self._tasks = {task.name for task in spec.tasks}
        self._vocabulary = vocabulary
        self._held: dict[str, Entry] = {}
        self._groups: dict[int, dict[int, ScoredGroup]] = defaultdict(dict)
        self._entries: dict[int, list[Entry]] = defaultdict(list)
        self._refused: Counter[str] = Counter()
        self._trouble = ""

    def published(self, handle: CheckpointHandle) -> None:
        """Groups by this version may come from now on."""
        self._weights[handle.version] = handle.manifest_digest

    def leased(self) -> AbstractAsyncContextManager[None]:
        """Renew the leases of all that is held while the block runs."""
        return self._consumer.leased(self._held)

    async def collect(self, step: int) -> Collected:
        """Wait until every prompt of `step` has its group. Raises RunFailed for a group that breaks the contract."""
        started = time.monotonic()
        arrived = self._groups[step]
        while len(arrived) < self._spec.prompts_per_step:
            entries = await self._patiently(lambda: self._consumer.take(_TAKE_COUNT, wait_s=_TAKE_WAIT_S))
            unwanted = [entry for entry in entries if not await self._keep(entry, step=step)]
            await self._patiently(lambda unwanted=unwanted: self._consumer.ack(unwanted))  # type: ignore[misc]
        refused, self._refused = dict(self._refused), Counter()
        groups = tuple(arrived[index] for index in sorted(arrived))
        return Collected(groups, refused, time.monotonic() - started)

    async def done(self, step: int) -> None:
        """The update of `step` is made: acknowledge its groups and forget them."""
        entries = self._entries.pop(step, [])
        await self._patiently(lambda: self._consumer.ack(entries))
        for entry in entries:
            self._held.pop(entry.id, None)
        self._groups.pop(step, None)

    async def hand_back(self) -> None:
        """Give back what was not trained, so that the next attempt gets it at once."""
        held, self._held = list(self._held.values()), {}
        try:
            async with asyncio.timeout(_HAND_BACK_S):
                await self._consumer.hand_back(held)
        except (TimeoutError, RedisError, *CONNECTION_ERRORS) as error:
            log.info("groups_not_handed_back", groups=len(held), error=str(error))  # their leases run out by themselves

    def describe(self, step: int) -> str:
        """What `step` waits for, in words."""
        if self._trouble:
            return self._trouble
        missing = [i for i in range(self._spec.prompts_per_step) if i not in self._groups[step]]
        shown = ", ".join(str(i) for i in missing[:8]) + (", ..." if len(missing) > 8 else "")
        return (
            f"{len(missing)} of {self._spec.prompts_per_step} groups of step {step} "
            f"by version {self.schedule.version_for_step(step)} are missing (prompts {shown})"
        )

    async def _keep(self, entry: Entry, *, step: int) -> bool:
        """Let an entry in, or say that it is to be acknowledged at once."""
        if entry.id in self._held:
            return True  # our own lease ran out (a stalled machine) and the entry came back to us
        try:
            scored = ScoredGroup.FromString(entry.payload)
        except DecodeError:
            await self._patiently(lambda: self._consumer.fail(entry, cause="the payload is not a ScoredGroup"))
            return True
        key = scored.group.task.key
        cause: str | None = door.refusal(
            scored,
            run_id=self._run_id,
            step=step,
            schedule=self.schedule,
            prompts_per_step=self._spec.prompts_per_step,
            weights=self._weights,
        )
        if cause is None and key.prompt_index in self._groups[key.step]:
            cause = "duplicate"
        if cause is not None:
            self._refused[cause] += 1
            log.warning("group_refused", cause=cause, key=door.name_of(key), generator=scored.group.generator)
            return False
        self._held[entry.id] = entry
        door.check(scored, tasks=self._tasks, vocabulary=self._vocabulary)
        self._groups[key.step][key.prompt_index] = scored
        self._entries[key.step].append(entry)
        return True

    async def _patiently(self, call: Callable[[], Awaitable[Result]]) -> Result:
        """Repeat `call` until Redis carries it out."""
        return await insist(call, tell=self._tell)

    def _tell(self, trouble: str) -> None:
        self._trouble = f"{trouble}; training goes on when it does" if trouble else ""
