"""Stream in, stream out: takes rollout groups, scores them, hands them over.

A group leaves in one of four ways. Scored: to the learner, or to the coordinator for an
evaluation. Dropped, without samples: its gold answer cannot be read, so no retry can help and
nothing may be learned from it. Failed: the entry itself is broken; after three deliveries it
is a dead letter. Handed back: this service does not give its reward, and another one may, as in the
midst of an upgrade. A group whose reward is down stays here, leased, until the reward is back or
its run is over.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import structlog
from google.protobuf.message import DecodeError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.reward.groups import GOLD_UNPARSABLE, decoded, dropped, items_of, place_of
from services.reward.metrics import GROUPS
from services.reward.scorer import Scorer, parsed
from services.reward.verdicts import Item, Verdict
from syncline import keys
from syncline.backoff import Backoff
from syncline.errors import InvalidSpec
from syncline.insist import insist
from syncline.redis_client import CONNECTION_ERRORS
from syncline.rewardspec import RewardSpec
from syncline.streams import Entry, StreamConsumer
from syncline.v1 import rollout_pb2 as pb

log = structlog.get_logger()
Reply = TypeVar("Reply")

_POLL_S = 0.5
"""Longest blocking read; a drain waits for it, as a read that is cut off may lose what it was given."""
_HAND_BACK_S = 2.0
_BACKOFF = Backoff(first_s=0.5, longest_s=30.0, jitter=0.5)
"""Of a reward that is unavailable."""
_NOT_SERVED_S = 0.5
"""How long nothing is taken after a group whose reward is given elsewhere, which else would come back at once."""


@dataclass(frozen=True, slots=True)
class _Wait:
    """Why a group has no reward yet."""

    run_id: str
    cause: str
    since: float


class _NotServed(Exception):
    """This service does not give the reward; one of another version may, as in the midst of an upgrade."""


class RewardWorker:
    """One consumer of the rollout stream, with several groups in work."""

    def __init__(
        self,
        redis: Redis,
        *,
        scorer: Scorer,
        consumer: str,
        lease_s: float,
        groups_in_flight: int,
        backoff: Backoff = _BACKOFF,
    ) -> None:
        self.groups: Counter[str] = Counter()
        """Groups by what became of them."""
        self.error = ""
        """The last failure in words."""
        self._scorer = scorer
        self._groups_in_flight = groups_in_flight
        self._backoff = backoff
        self._consumer = StreamConsumer(
            redis, stream=keys.ROLLOUTS, group=keys.REWARD_GROUP, consumer=consumer, lease_s=lease_s
        )
        self._held: dict[str, Entry] = {}
        self._rests_until = 0.0
        self._waiting: dict[str, _Wait] = {}  # by entry id
        self._scoring: set[str] = set()  # entry ids
        self._tasks: dict[str, asyncio.Task[None]] = {}  # by entry id
        self._stop = asyncio.Event()
        self._finish_s = 0.0
        self._stopped = asyncio.Event()
        self._stopped.set()

    async def run(self) -> None:
        """Take and score groups until drained or cancelled; either way what is unfinished is handed back."""
        self._stopped.clear()
        try:
            async with self._consumer.leased(self._held, lost=self._let_go):
                while not self._stop.is_set():
                    entries = await self._take()
                    if self._stop.is_set():  # the read was under way
                        await self._give_back(entries)
                    else:
                        self._start(entries)
                await self._finish()
        finally:
            await self._hand_back()
            self._stopped.set()

    async def drain(self, *, finish_s: float = 0.0) -> None:
        """Take no more groups, finish for `finish_s` what is in work, under its leases, and hand back the rest."""
        self._finish_s = finish_s
        self._stop.set()
        await self._stopped.wait()

    def status(self) -> Mapping[str, Any]:
        """What the fleet shows of this member; `waiting` says by run why it waits, only while a reward is down."""
        status: dict[str, Any] = {
            "rewards": self._scorer.offers,
            "phase": "waiting" if self._waiting else "scoring" if self._held else "idle",
            "groups": dict(self.groups),
            "verdicts": dict(self._scorer.verdicts),
        }
        if self.error:
            status["error"] = self.error
        if self._waiting:
            status["waiting"] = {run_id: self._why_it_waits(run_id) for run_id in self._runs_waiting()}
        return status

    @property
    def trouble(self) -> str:
        """What goes wrong at the moment, in words."""
        return "; ".join(self.status().get("waiting", {}).values()) or self.error

    def _runs_waiting(self) -> list[str]:
        return sorted({wait.run_id for wait in self._waiting.values()})

    def _why_it_waits(self, run_id: str) -> str:
        waits = [wait for wait in self._waiting.values() if wait.run_id == run_id]
        seconds = time.monotonic() - min(wait.since for wait in waits)
        causes = "; ".join(sorted({wait.cause for wait in waits}))
        return f"no reward for {seconds:.0f} s (groups held: {len(waits)}): {causes}"

    async def _take(self) -> list[Entry]:
        """Groups to start on. Those that wait for a reward leave room for others, whose reward may be up."""
        if (rest_s := self._rests_until - time.monotonic()) > 0:
            await asyncio.sleep(rest_s)
        working = len(self._held) - len(self._waiting)
        if working >= self._groups_in_flight or len(self._held) >= 16 * self._groups_in_flight:
            await asyncio.wait(self._tasks.values(), timeout=_POLL_S, return_when=asyncio.FIRST_COMPLETED)
            return []
        return await self._insist(
            lambda: self._consumer.take(self._groups_in_flight - working, wait_s=_POLL_S), otherwise=[]
        )

    def _start(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self._held[entry.id] = entry
            task = self._tasks[entry.id] = asyncio.create_task(self._work(entry))
            task.add_done_callback(partial(self._ended, entry))

    def _ended(self, entry: Entry, task: asyncio.Task[None]) -> None:
        del self._tasks[entry.id]

    def _let_go(self, entry: Entry) -> None:
        """Nobody wants this verdict from us any more: its run is over, or another consumer has the group."""
        if entry.id in self._scoring:  # and not in the midst of its hand-over
            self._tasks[entry.id].cancel()
            self._count("lost")

    async def _finish(self) -> None:
        """Groups in work may still be scored; those that wait for a reward that is down may wait elsewhere."""
        deadline = time.monotonic() + self._finish_s
        while len(self._tasks) > len(self._waiting) and (left_s := deadline - time.monotonic()) > 0:
            await asyncio.wait(self._tasks.values(), timeout=min(left_s, _POLL_S), return_when=asyncio.FIRST_COMPLETED)

    async def _work(self, entry: Entry) -> None:
        try:
            self._scoring.add(entry.id)
            try:
                group = decoded(entry.payload)
                scored = await self._scored(entry, group, items_of(group))
            except DecodeError as error:
                await self._fail(entry, cause=f"broken group: {error}")
                return
            except _NotServed as error:
                await self._leave_to_others(entry, why=str(error))
                return
            except InvalidSpec as error:
                await self._fail(entry, cause=f"unknown reward: {error.message}")
                return
            finally:
                self._scoring.discard(entry.id)
            await self._hand_over(entry, group, scored)
        except Exception as error:  # the boundary: one group must not take the service down
            log.error("group_failed", exc_info=error)
            await self._fail(entry, cause=f"{type(error).__name__} in the reward service")
        finally:
            self._held.pop(entry.id, None)
            self._waiting.pop(entry.id, None)

    async def _scored(self, entry: Entry, group: pb.RolloutGroup, items: Sequence[Item]) -> pb.ScoredGroup:
        """Raises InvalidSpec for what is no reward, and _NotServed."""
        parsed(group.task.reward_json)
        try:
            spec = await self._scorer.require(group.task.reward_json)
        except InvalidSpec as error:
            raise _NotServed(error.message) from None
        try:
            return pb.ScoredGroup(group=group, verdicts=await self._verdicts(entry, items, spec))
        except InvalidSpec as error:
            log.warning("group_dropped", cause=GOLD_UNPARSABLE, error=error.message, **place_of(group))
            self._count("dropped")
            return dropped(group)

    async def _leave_to_others(self, entry: Entry, *, why: str) -> None:
        """Back to the stream, uncounted: that this service is too old for a group is no fault of the group."""
        self._wait_for(entry, f"{why}; waiting for a reward service that gives it")
        self._rests_until = time.monotonic() + _NOT_SERVED_S
        await self._insist(lambda: self._consumer.hand_back([entry]), otherwise=0)
        self._held.pop(entry.id, None)
        self._count("handed_back")
        await asyncio.sleep(_NOT_SERVED_S)  # its status says meanwhile why

    async def _verdicts(self, entry: Entry, items: Sequence[Item], spec: RewardSpec) -> list[pb.Verdict]:
        """A verdict for every sample. Waits as long as the reward is down: `unavailable` never leaves this service."""
        verdicts: dict[int, Verdict] = {}
        pauses = self._backoff.pauses()
        while missing := [index for index in range(len(items)) if index not in verdicts]:
            given = await self._scorer.score(spec, [items[index] for index in missing])
            down = [verdict.cause for verdict in given if verdict.status == "unavailable"]
            verdicts |= {
                i: verdict for i, verdict in zip(missing, given, strict=True) if verdict.status != "unavailable"
            }
            if down:
                self._wait_for(entry, f"{spec.place}: {down[0]}")
                await asyncio.sleep(next(pauses))
        return [verdicts[index].to_message() for index in range(len(items))]

    def _wait_for(self, entry: Entry, cause: str) -> None:
        if not self._waiting:
            log.warning("reward_unavailable", cause=cause, run=entry.run_id)
        known = self._waiting.get(entry.id)
        self._waiting[entry.id] = _Wait(entry.run_id, cause, known.since if known else time.monotonic())

    async def _hand_over(self, entry: Entry, group: pb.RolloutGroup, scored: pb.ScoredGroup) -> None:
        run_id = group.task.key.run_id
        to = keys.evaluated(run_id) if group.task.purpose == pb.PURPOSE_EVALUATION else keys.scored(run_id)
        payload = scored.SerializeToString()
        result = await self._insist(
            lambda: self._consumer.hand_over(entry, run_id=run_id, to=to, payload=payload), otherwise="lost"
        )
        self._count(result)
        if result == "moved" and not scored.dropped_cause:
            self.error = ""  # what went wrong was of another group, and is in the log

    async def _fail(self, entry: Entry, *, cause: str) -> None:
        self.error = cause
        result = await self._insist(lambda: self._consumer.fail(entry, cause=cause), otherwise="lost")
        log.warning("group_refused", cause=cause, result=result, deliveries=entry.deliveries)
        self._count(result)

    async def _insist(self, call: Callable[[], Awaitable[Reply]], *, otherwise: Reply) -> Reply:
        """Call Redis until it answers; `otherwise` when the service stops before that."""
        try:
            return await insist(call, tell=self._tell, give_up=self._stop.is_set)
        except (RedisError, *CONNECTION_ERRORS):
            return otherwise

    def _tell(self, trouble: str) -> None:
        self.error = trouble

    async def _hand_back(self) -> None:
        unfinished = list(self._held.values())
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._give_back(unfinished)

    async def _give_back(self, entries: Sequence[Entry]) -> None:
        if not entries:
            return
        try:
            async with asyncio.timeout(_HAND_BACK_S):
                log.info("handed_back", groups=await self._consumer.hand_back(entries))
        except (RedisError, TimeoutError, *CONNECTION_ERRORS) as error:
            log.warning("not_handed_back", groups=len(entries), error=str(error))  # their leases run out

    def _count(self, result: str) -> None:
        self.groups[result] += 1
        GROUPS.labels(result).inc()
