"""The queue contract, on a real server: leases, fenced hand-over, dead letters, nothing left behind."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from syncline import keys
from syncline.streams import MAX_LOST_LEASES, Entry, StreamConsumer, Streams

RUN = "run-1"
IN, OUT = keys.prompts(RUN, 0), keys.scored(RUN)
LEASE_S = 0.3


@pytest.fixture
async def streams(redis: Redis) -> Streams:
    streams = Streams(redis)
    await streams.open_run(RUN)
    return streams


def consumer(redis: Redis, name: str, *, stream: str = IN, lease_s: float = LEASE_S) -> StreamConsumer:
    return StreamConsumer(redis, stream=stream, group="workers", consumer=name, lease_s=lease_s)


async def take(consumer: StreamConsumer, count: int = 10, *, within_s: float = 5.0) -> list[Entry]:
    """Wait until something comes."""
    async with asyncio.timeout(within_s):
        while not (entries := await consumer.take(count, wait_s=0.1)):
            pass
        return entries


async def pending(redis: Redis, stream: str = IN) -> int:
    return int((await redis.xpending(stream, "workers"))["pending"])


async def test_an_entry_is_delivered_once_while_its_owner_lives(redis: Redis, streams: Streams) -> None:
    await streams.add(IN, run_id=RUN, payload=b"work")
    first, second = consumer(redis, "first"), consumer(redis, "second")
    (entry,) = await take(first)
    # When the owner keeps its lease for longer than the lease is
    held = {entry.id: entry}
    async with first.leased(held):
        for _ in range(5):
            assert await second.take(1, wait_s=LEASE_S / 2) == []
    # Then it can still finish
    assert await first.hand_over(entry, run_id=RUN, to=OUT, payload=b"done") == "moved"
    assert await streams.outstanding([IN, OUT]) == [0, 1]


async def test_the_work_of_a_dead_consumer_is_taken_over_on_a_silent_stream(redis: Redis, streams: Streams) -> None:
    await streams.add(IN, run_id=RUN, payload=b"work")
    (lost,) = await take(consumer(redis, "dies"))
    (entry,) = await take(consumer(redis, "lives"), within_s=LEASE_S + 2.0)
    assert (entry.id, entry.payload, entry.deliveries) == (lost.id, b"work", 2)


async def test_a_late_owner_can_neither_hand_over_nor_acknowledge(redis: Redis, streams: Streams) -> None:
    await streams.add(IN, run_id=RUN, payload=b"work")
    late, new = consumer(redis, "late"), consumer(redis, "new")
    (stale,) = await take(late)
    (entry,) = await take(new)
    assert await late.hand_over(stale, run_id=RUN, to=OUT, payload=b"late") == "lost"
    assert await late.ack([stale]) == 0
    assert await late.renew([stale]) == []
    assert await new.hand_over(entry, run_id=RUN, to=OUT, payload=b"new") == "moved"
    (only,) = await take(consumer(redis, "reader", stream=OUT))
    assert only.payload == b"new"


async def test_of_two_claimers_one_wins(redis: Redis, streams: Streams) -> None:
    await streams.add_all(IN, run_id=RUN, payloads=[b"%d" % n for n in range(50)])
    assert len(await take(consumer(redis, "dies"), 50)) == 50
    rescuers = [consumer(redis, f"rescuer-{n}") for n in range(4)]
    won: list[str] = []
    async with asyncio.timeout(10):
        while len(won) < 50:
            for entries in await asyncio.gather(*(rescuer.take(7, wait_s=0.05) for rescuer in rescuers)):
                won.extend(entry.id for entry in entries)
    assert len(set(won)) == 50


async def test_the_work_of_a_consumer_that_is_known_to_be_dead_goes_on_at_once(redis: Redis, streams: Streams) -> None:
    dead, living, heir = (consumer(redis, name, lease_s=60) for name in ("dead", "living", "heir"))
    await streams.add(IN, run_id=RUN, payload=b"held")
    (held,) = await take(dead)
    await streams.add(IN, run_id=RUN, payload=b"other")
    (other,) = await take(living)
    assert await streams.release(IN, group="workers", consumer="dead") == 1
    (entry,) = await take(heir, within_s=2.0)
    assert (entry.payload, entry.deliveries) == (b"held", 2)
    assert await living.hand_over(other, run_id=RUN, to=OUT, payload=b"other") == "moved"
    # ... and should it live after all, it has nothing that it could hand over.
    assert await dead.hand_over(held, run_id=RUN, to=OUT, payload=b"twice") == "lost"
    assert await heir.hand_over(entry, run_id=RUN, to=OUT, payload=b"once") == "moved"
    assert await streams.outstanding([IN, OUT]) == [0, 2]


async def test_what_kills_its_consumers_is_buried_though_their_work_is_released(redis: Redis, streams: Streams) -> None:
    await streams.add(IN, run_id=RUN, payload=b"killer")
    for n in range(MAX_LOST_LEASES):
        await take(consumer(redis, f"owner-{n}", lease_s=60), within_s=2.0)
        await streams.release(IN, group="workers", consumer=f"owner-{n}")
    ((_, letter),) = await redis.xrange(keys.dead(RUN))
    assert letter[b"cause"] == f"its owner died; last owner owner-{MAX_LOST_LEASES - 1}".encode()


async def test_an_entry_that_is_handed_back_goes_on_at_once_and_is_not_counted(redis: Redis, streams: Streams) -> None:
    await streams.add(IN, run_id=RUN, payload=b"work")
    leaving, staying = consumer(redis, "leaving", lease_s=60), consumer(redis, "staying", lease_s=60)
    assert await leaving.hand_back(await take(leaving)) == 1
    (entry,) = await take(staying, within_s=2.0)
    assert (entry.payload, entry.deliveries) == (b"work", 1)


async def test_poison_goes_to_the_dead_letters_with_its_cause_after_three_failures(
    redis: Redis, streams: Streams
) -> None:
    await streams.add(IN, run_id=RUN, payload=b"poison")
    worker = consumer(redis, "worker")
    outcomes = [await worker.fail((await take(worker))[0], cause="cannot be read") for _ in range(3)]
    assert outcomes == ["retried", "retried", "dead"]
    ((_, letter),) = await redis.xrange(keys.dead(RUN))
    assert letter[b"cause"] == b"cannot be read"
    assert (letter[b"p"], letter[b"stream"], letter[b"deliveries"]) == (b"poison", IN.encode(), b"3")
    assert await streams.outstanding([IN]) == [0]


async def test_what_kills_its_consumers_is_buried_too_but_not_after_three(redis: Redis, streams: Streams) -> None:
    await streams.add(IN, run_id=RUN, payload=b"killer")
    owners = [consumer(redis, f"owner-{n}", lease_s=0.05) for n in range(MAX_LOST_LEASES)]
    deliveries = [(await take(owner))[0].deliveries for owner in owners]
    assert deliveries == list(range(1, MAX_LOST_LEASES + 1))
    async with asyncio.timeout(5):
        while not await redis.xlen(keys.dead(RUN)):
            assert await consumer(redis, "the next", lease_s=0.05).take(1, wait_s=0.1) == []
    ((_, letter),) = await redis.xrange(keys.dead(RUN))
    assert letter[b"cause"] == f"lease ran out; last owner owner-{MAX_LOST_LEASES - 1}".encode()
    assert await pending(redis) == 0


async def test_dead_owners_and_failures_are_counted_apart(redis: Redis, streams: Streams) -> None:
    """A group is poison by what its owners say of it, not by how many of them happened to be killed."""
    await streams.add(IN, run_id=RUN, payload=b"work")
    # Given five owners that died and two that failed it, with a hand-back between them
    for n in range(5):
        await take(consumer(redis, f"dies-{n}", lease_s=0.05))
    worker = consumer(redis, "worker", lease_s=0.05)
    (entry,) = await take(worker)
    assert await worker.hand_back([entry]) == 1
    for _ in range(2):
        (entry,) = await take(worker)
        assert await worker.fail(entry, cause="no good") == "retried"
    # Then it is still work, and the third failure is the end
    (entry,) = await take(worker)
    assert entry.deliveries == 5 + 2 + 1
    assert await worker.fail(entry, cause="no good") == "dead"


async def test_work_of_a_closed_run_is_dropped_at_every_door(redis: Redis, streams: Streams) -> None:
    await streams.add_all(IN, run_id=RUN, payloads=[b"a", b"b"])
    worker = consumer(redis, "worker", stream=IN, lease_s=60)
    entries = await take(worker)
    await redis.srem(keys.OPEN_RUNS, RUN)
    assert await worker.hand_over(entries[0], run_id=RUN, to=OUT, payload=b"late") == "closed"
    assert not await streams.add(IN, run_id=RUN, payload=b"more")
    assert await worker.renew(entries[1:]) == []
    assert await streams.outstanding([IN]) == [0]
    assert await redis.exists(OUT) == 0
    await streams.close_run(RUN)
    assert await redis.keys(f"*{RUN}*") == []


async def test_of_a_stream_of_all_runs_only_the_work_of_open_ones_is_taken(redis: Redis, streams: Streams) -> None:
    await streams.open_run("run-2")
    await streams.add_all(keys.ROLLOUTS, run_id="run-2", payloads=[b"late", b"later"])
    await streams.add(keys.ROLLOUTS, run_id=RUN, payload=b"wanted")
    await streams.close_run("run-2")
    (entry,) = await take(consumer(redis, "worker", stream=keys.ROLLOUTS))
    assert (entry.run_id, entry.payload) == (RUN, b"wanted")
    assert await streams.outstanding([keys.ROLLOUTS]) == [1]


async def test_who_leases_is_told_of_entries_that_are_not_its_own_any_more(redis: Redis, streams: Streams) -> None:
    await streams.add_all(IN, run_id=RUN, payloads=[b"a", b"b"])
    worker, told = consumer(redis, "worker"), asyncio.Queue[Entry]()
    taken_away, kept = await take(worker, 2)
    async with worker.leased({one.id: one for one in (taken_away, kept)}, lost=told.put_nowait):
        await redis.xdel(IN, taken_away.id)
        await redis.xack(IN, "workers", taken_away.id)
        assert await asyncio.wait_for(told.get(), timeout=10) == taken_away
    assert await pending(redis) == 1


async def test_a_server_that_lost_its_data_is_no_error(redis: Redis, streams: Streams) -> None:
    await streams.add(IN, run_id=RUN, payload=b"work")
    worker = consumer(redis, "worker")
    (entry,) = await take(worker)
    await redis.flushall()
    assert await worker.hand_over(entry, run_id=RUN, to=OUT, payload=b"x") == "lost"
    assert await worker.take(1, wait_s=0.05) == []
    # And work that is admitted again flows again
    await streams.open_run(RUN)
    await streams.add(IN, run_id=RUN, payload=b"again")
    assert [again.payload for again in await take(worker)] == [b"again"]


async def test_nothing_is_lost_or_doubled_with_consumers_that_die_at_random(redis: Redis, streams: Streams) -> None:
    # Given 300 entries and workers of which every third read is abandoned, as by a SIGKILL
    await streams.add_all(IN, run_id=RUN, payloads=[b"%d" % n for n in range(300)])

    async def work(name: str) -> None:
        reads = 0
        me = StreamConsumer(redis, stream=IN, group="workers", consumer=name, lease_s=LEASE_S, max_lost_leases=50)
        while (await streams.outstanding([IN]))[0]:
            entries = await me.take(8, wait_s=0.05)
            reads += 1
            if reads % 3 == 0:
                continue
            for entry in entries:
                await me.hand_over(entry, run_id=RUN, to=OUT, payload=entry.payload)

    async with asyncio.timeout(30):
        await asyncio.gather(*(work(f"worker-{n}") for n in range(4)))
    # Then every entry arrived exactly once
    arrived = [int(fields[b"p"]) for _, fields in await redis.xrange(OUT)]
    assert sorted(arrived) == list(range(300))


async def test_a_cancelled_reader_ends_whenever_the_cancellation_comes(redis: Redis, streams: Streams) -> None:
    reader = consumer(redis, "a")

    async def read() -> None:
        while True:
            await reader.take(1, wait_s=0.05)

    for tenth_of_a_ms in range(100):
        reading = asyncio.create_task(read())
        await asyncio.sleep(tenth_of_a_ms / 10_000)
        reading.cancel()
        ended, _ = await asyncio.wait([reading], timeout=2.0)
        assert ended
        assert reading.cancelled()
