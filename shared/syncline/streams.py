"""Work streams on Redis: leases, fenced hand-over, dead letters.

The promise: work is handed over at least once, and an entry is
deleted when it is acknowledged, so an idle system has empty streams. Only the consumer that
still owns an entry can hand it over or acknowledge it. The entries of a consumer that died
are taken over after `lease_s` by whoever takes next; no traffic and no lock is needed for it.

Life of an entry: add -> take -> (renew)* -> hand_over | ack | hand_back | fail
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from syncline import keys
from syncline.redis_client import CONNECTION_ERRORS, SOCKET_TIMEOUT_S

DEFAULT_LEASE_S = 15.0
MAX_FAILURES = 3
"""Times that its owners may fail an entry before it is poison."""
MAX_LOST_LEASES = 10
"""Times that its owners may die before it is: see streams.lua for why these are more."""
_RENEW_S = 2.0  # soon enough that the work of a run that was closed ends, too
_LONGEST_BLOCK_S = SOCKET_TIMEOUT_S / 2  # a blocking read must end before the client gives up on the socket
_DEAD_PREFIX = keys.dead("")


@dataclass(frozen=True, slots=True)
class Entry:
    """One delivered entry. `deliveries` counts this delivery too."""

    id: str
    payload: bytes
    deliveries: int
    run_id: str


HandOver = Literal["moved", "lost", "closed"]
"""moved: the next stage has it. lost: another consumer owns it now. closed: the run wants no more work."""


class Streams:
    """Adds work, and tells how much there is."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self._script = redis.register_script(_LUA)

    async def add(self, stream: str, *, run_id: str, payload: bytes) -> bool:
        """Append one entry; False when the run is not open."""
        return bool(await self._script(keys=[stream, keys.OPEN_RUNS], args=["add", "", "", run_id, payload]))

    async def add_all(self, stream: str, *, run_id: str, payloads: Iterable[bytes]) -> int:
        """Append entries in one round trip; returns how many were taken."""
        async with self.redis.pipeline(transaction=False) as pipe:
            for payload in payloads:
                await self._script(keys=[stream, keys.OPEN_RUNS], args=["add", "", "", run_id, payload], client=pipe)
            return sum(1 for added in await pipe.execute() if added)

    async def open_run(self, run_id: str) -> None:
        """Accept work of this run from now on."""
        await self.redis.sadd(keys.OPEN_RUNS, run_id)

    async def open_runs(self) -> list[str]:
        """Runs whose work is accepted."""
        members: set[Any] = await self.redis.smembers(keys.OPEN_RUNS)
        return sorted(run_id.decode() for run_id in members)

    async def close_run(self, run_id: str) -> None:
        """Refuse further work of this run and delete its streams; its dead letters stay for a day.

        What lies in streams of all runs is deleted by whoever takes it, or holds it.
        """
        await self.redis.srem(keys.OPEN_RUNS, run_id)
        await self.purge_run(run_id)
        await self.redis.expire(keys.dead(run_id), 86_400)

    async def purge_run(self, run_id: str) -> None:
        """Delete the work of a run, so that it can be admitted anew."""
        doomed = [keys.scored(run_id), keys.evaluated(run_id), keys.admitted(run_id)]
        async for name in self.redis.scan_iter(match=f"{keys.PREFIX}:prompts:{run_id}:*", count=1000):
            doomed.append(name.decode())
        await self.redis.delete(*doomed)

    async def release(self, stream: str, *, group: str, consumer: str) -> int:
        """Give the entries of a consumer that is known to be dead to the next one, before its lease runs out.

        Safe if it lives after all: the entries get new ids, so it owns none of them and can hand none over.
        Returns how many there were.
        """
        args: list[Any] = ["release", group, consumer, MAX_LOST_LEASES, _DEAD_PREFIX]
        return int(await self._script(keys=[stream, keys.OPEN_RUNS], args=args))

    async def outstanding(self, streams: Sequence[str]) -> list[int]:
        """Entries of each stream that are not acknowledged, delivered or not."""
        async with self.redis.pipeline(transaction=False) as pipe:
            for stream in streams:
                pipe.xlen(stream)
            return [int(length) for length in await pipe.execute()]


class StreamConsumer:
    """One consumer of one stream in a group."""

    def __init__(
        self,
        redis: Redis,
        *,
        stream: str,
        group: str,
        consumer: str,
        run_id: str = "",
        lease_s: float = DEFAULT_LEASE_S,
        max_failures: int = MAX_FAILURES,
        max_lost_leases: int = MAX_LOST_LEASES,
    ) -> None:
        """`run_id` is the run that the stream belongs to; empty for a stream of all runs."""
        self.stream = stream
        self._run_id = run_id
        self.lease_s = lease_s
        self._redis = redis
        self._group = group
        self._consumer = consumer
        self._max_failures = max_failures
        self._max_lost_leases = max_lost_leases
        self._script = redis.register_script(_LUA)
        self._group_known = False

    async def take(self, count: int, *, wait_s: float) -> list[Entry]:
        """Up to `count` entries: first those whose owner's lease ran out, then new ones.

        Waits at most `wait_s` (and never longer than a third of the lease, so that expired
        entries are looked for on a timer even when the stream is silent).
        """
        if count < 1:
            return []
        if not await self._ensure_group():
            await asyncio.sleep(min(wait_s, self.lease_s / 3))
            return []
        idle_ms = int(self.lease_s * 1000)
        claimed = await self._run("claim", idle_ms, count, self._max_lost_leases, _DEAD_PREFIX)
        entries = [Entry(id.decode(), payload, int(count), run.decode()) for id, payload, count, run in claimed]
        if entries:
            return entries
        block_ms = max(1, int(min(wait_s, self.lease_s / 3, _LONGEST_BLOCK_S) * 1000))
        try:
            reply = await self._redis.xreadgroup(
                self._group, self._consumer, {self.stream: ">"}, count=count, block=block_ms
            )
        except ResponseError as error:
            if not str(error).startswith(("NOGROUP", "UNBLOCKED")):
                raise
            self._group_known = False  # the stream was deleted, or Redis lost its data: start over
            return []
        entries = [_entry(id, fields) for id, fields in _entries_of(reply)]
        # The stream of one run is deleted with it. In a stream of all runs lies work of runs that are over.
        return entries if self._run_id else await self.renew(entries)

    async def hand_over(self, entry: Entry, *, run_id: str, to: str, payload: bytes) -> HandOver:
        """Acknowledge `entry` and append `payload` to stream `to`, in one transaction, if it is still ours."""
        reply = await self._run("hand_over", entry.id, run_id, payload, to=to)
        answer: HandOver = reply.decode()
        return answer

    async def ack(self, entries: Iterable[Entry]) -> int:
        """Acknowledge and delete what is still ours; returns how many that were."""
        ids = [entry.id for entry in entries]
        return int(await self._run("ack", *ids)) if ids else 0

    async def renew(self, entries: Iterable[Entry]) -> list[Entry]:
        """Start the lease anew for what is still ours, and return that. What belongs to a closed run is deleted."""
        ours = {entry.id: entry for entry in entries}
        kept = (
            await self._run("renew", *(text for one in ours.values() for text in (one.id, one.run_id))) if ours else []
        )
        return [ours[id.decode()] for id in kept]

    async def hand_back(self, entries: Iterable[Entry]) -> int:
        """Give entries back unfinished (a drain); the next consumer gets them at once."""
        ids = [entry.id for entry in entries]
        return int(await self._run("hand_back", *ids)) if ids else 0

    async def fail(self, entry: Entry, *, cause: str) -> Literal["retried", "dead", "lost"]:
        """This delivery failed: try again, or after the last failure put it on the dead-letter stream."""
        reply = await self._run("fail", entry.id, cause[:500], self._max_failures, _DEAD_PREFIX)
        answer: Literal["retried", "dead", "lost"] = reply.decode()
        return answer

    @asynccontextmanager
    async def leased(
        self, held: dict[str, Entry], *, lost: Callable[[Entry], None] = lambda entry: None
    ) -> AsyncIterator[None]:
        """Renew the leases of all entries in `held` (by id, changed by the caller as it works) while the block runs.

        `lost` is told, time and again, of each that is not ours any more: taken over, or of a run that was closed.
        """
        keeper = asyncio.create_task(self._keep(held, lost), name=f"lease:{self.stream}")
        try:
            yield
        finally:
            keeper.cancel()
            with suppress(asyncio.CancelledError):
                await keeper

    async def _keep(self, held: dict[str, Entry], lost: Callable[[Entry], None]) -> None:
        while True:
            await asyncio.sleep(min(self.lease_s / 3, _RENEW_S))
            with suppress(RedisError, *CONNECTION_ERRORS):  # tried again soon; a lost lease only means repeated work
                asked = list(held.values())
                kept = set(await self.renew(asked))
                for entry in asked:
                    if entry not in kept and entry.id in held:
                        lost(entry)

    async def _ensure_group(self) -> bool:
        """Whether the group exists now. The stream of a closed run is not made again: nobody would delete it."""
        if not self._group_known:
            self._group_known = bool(await self._run("join", self._run_id))
        return self._group_known

    async def _run(self, command: str, *args: Any, to: str = "") -> Any:
        return await self._script(
            keys=[self.stream, keys.OPEN_RUNS, to or self.stream],
            args=[command, self._group, self._consumer, *args],
        )


def _entries_of(reply: Any) -> list[tuple[bytes, dict[bytes, bytes]]]:
    """Entries of an XREADGROUP reply for one stream, in either protocol's shape."""
    if not reply:
        return []
    pages = reply.values() if isinstance(reply, dict) else [page for _, page in reply]
    entries: list[tuple[bytes, dict[bytes, bytes]]] = []
    for page in pages:
        for item in page:
            entries.extend(item if isinstance(item, list) and item and isinstance(item[0], tuple) else [item])
    return entries


def _entry(id: bytes, fields: dict[bytes, bytes]) -> Entry:
    return Entry(id.decode(), fields[b"p"], int(fields[b"d"]) + int(fields[b"l"]) + 1, fields[b"r"].decode())


_LUA = files("syncline").joinpath("streams.lua").read_text(encoding="utf-8")
