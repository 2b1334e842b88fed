"""How fast work goes through the queue: 20,000 entries without work in them, 10 consumers, time until nothing is left.

Measured: taking under a lease that is renewed, acknowledging behind the fence (only the owner can), deleting, on a
server that writes its append-only file. Twice: each entry acknowledged on its own, as generators do, and all entries
of one take together, as the learner does. The consumers are tasks of one process with a connection each.

Not measured: filling the stream (told beside it), several processes, a network.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Literal

from syncline import keys, redis_client
from syncline.streams import Entry, StreamConsumer, Streams
from tests.bench.report import BenchFailed, Figure, Measured, Options
from tests.bench.server import server

RUN = "bench"
STREAM = keys.scored(RUN)
CONSUMERS = 10
TARGET_S = 5.0

Acks = Literal["one by one", "by take"]
_TAKES: dict[Acks, int] = {"one by one": 32, "by take": 64}
"""Entries of one take: what a generator and the learner ask for."""


def measure(options: Options) -> Measured:
    return asyncio.run(_measure(options, entries=1_000 if options.quick else 20_000))


async def _measure(options: Options, *, entries: int) -> Measured:
    figures: list[Figure] = []
    details: dict[str, Any] = {"entries": entries, "consumers": CONSUMERS, "fill_seconds": {}, "seconds": {}}
    for acks in _TAKES:
        with server() as url:
            fill_s, drain_s = await _fill_and_drain(url, entries, acks)
        options.say(f"  acked {acks}: filled in {fill_s:.2f} s, emptied in {drain_s:.2f} s")
        details["fill_seconds"][acks], details["seconds"][acks] = fill_s, drain_s
        figures.append(
            Figure(
                name=f"{entries:,} entries, {CONSUMERS} consumers, acked {acks}",
                value=drain_s,
                shown=f"{drain_s:.2f} s",
                target=f"< {TARGET_S:g} s",
                met=drain_s < TARGET_S,
            )
        )
    return Measured(figures, details)


async def _fill_and_drain(url: str, entries: int, acks: Acks) -> tuple[float, float]:
    """Seconds to fill the stream, and from the start of the consumers to an empty stream."""
    redis = redis_client.connect(url)
    clients = [redis_client.connect(url) for _ in range(CONSUMERS)]
    try:
        work = Streams(redis)
        await work.open_run(RUN)
        started = time.perf_counter()
        await work.add_all(STREAM, run_id=RUN, payloads=(b"%d" % number for number in range(entries)))
        filled = time.perf_counter()
        consumers = [
            StreamConsumer(client, stream=STREAM, group=keys.LEARNER_GROUP, consumer=f"consumer-{number}", run_id=RUN)
            for number, client in enumerate(clients)
        ]
        done = await asyncio.gather(*(_drain(consumer, acks) for consumer in consumers))
        emptied = time.perf_counter()
        if sum(done) != entries or await work.outstanding([STREAM]) != [0]:
            raise BenchFailed(f"{sum(done):,} of {entries:,} entries were acknowledged")
        return filled - started, emptied - filled
    finally:
        for client in (redis, *clients):
            await client.aclose()


async def _drain(consumer: StreamConsumer, acks: Acks) -> int:
    """Take and acknowledge until a take brings nothing; returns how many entries were ours to acknowledge."""
    held: dict[str, Entry] = {}
    acknowledged = 0
    async with consumer.leased(held):
        while entries := await consumer.take(_TAKES[acks], wait_s=0.001):
            held.update((entry.id, entry) for entry in entries)
            for some in [entries] if acks == "by take" else [[entry] for entry in entries]:
                acknowledged += await consumer.ack(some)
                for entry in some:
                    del held[entry.id]
    return acknowledged
