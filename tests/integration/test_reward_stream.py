"""The stream worker on a real Redis: scored, dropped, failed, taken over, handed back."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from services.local import valkey
from services.reward.endpoints import Endpoints
from services.reward.scorer import Scorer, rewards
from services.reward.settings import RewardSettings
from services.reward.verdicts import Item, Verdict
from services.reward.verifiers.pool import VerifierPool
from services.reward.worker import RewardWorker
from syncline import keys, redis_client
from syncline.rewardspec import RewardSpec
from syncline.streams import StreamConsumer, Streams
from syncline.v1 import rollout_pb2 as pb
from tests.integration.reward_groups import RUN, add, entries, group, scored, worker
from tests.redis_server import wait_until_up
from tests.waiting import until


class Exact:
    """A real, small reward: the completion is the answer. It can be switched off, and counts who asks."""

    def __init__(self) -> None:
        self.down = False
        self.held_up = asyncio.Event()
        self.held_up.set()
        self.asked = 0

    async def score(self, spec: RewardSpec, items: Sequence[Item]) -> list[Verdict]:
        self.asked += len(items)
        await self.held_up.wait()
        if self.down:
            return [Verdict("unavailable", cause="the judge is down") for _ in items]
        return [Verdict("scored", score=float(item.completion == item.answer)) for item in items]


@asynccontextmanager
async def working(*workers: RewardWorker) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(one.run()) for one in workers]
    try:
        yield
        assert not any(task.done() for task in tasks), tasks
    finally:
        for one in workers:
            await one.drain()
        await asyncio.gather(*tasks)


async def nothing_left(redis: Redis) -> None:
    async with asyncio.timeout(30):
        while await redis.xlen(keys.ROLLOUTS):
            await asyncio.sleep(0.005)
    assert (await redis.xpending(keys.ROLLOUTS, keys.REWARD_GROUP))["pending"] == 0


async def test_groups_are_scored_by_math_verify_and_leave_an_empty_stream(redis: Redis) -> None:
    settings = RewardSettings()
    pool = VerifierPool(workers=1, limits=settings.limits, wall_s=60.0)
    checking = asyncio.create_task(pool.run())
    await asyncio.wait_for(pool.ready.wait(), timeout=60)
    scorer = Scorer(rewards(settings, pool, Endpoints()))
    try:
        async with working(worker(redis, scorer)):
            await add(
                redis,
                group("85", r"\boxed{\frac{170}{2}}", "86", "no idea", answer="85", index=7),
                group("85", answer=r"\boxed{}", index=8),
            )
            by_index = {one.group.task.key.prompt_index: one for one in await scored(redis, count=2)}
            await nothing_left(redis)
    finally:
        checking.cancel()
        await asyncio.gather(checking, return_exceptions=True)
    # every sample has its verdict, and the group came through unchanged
    whole = by_index[7]
    assert [(verdict.status, verdict.score) for verdict in whole.verdicts] == [
        (pb.VERDICT_STATUS_SCORED, 1.0),
        (pb.VERDICT_STATUS_SCORED, 1.0),
        (pb.VERDICT_STATUS_SCORED, 0.0),
        (pb.VERDICT_STATUS_UNPARSABLE, 0.0),
    ]
    assert whole.group == group("85", r"\boxed{\frac{170}{2}}", "86", "no idea", answer="85", index=7)
    assert not whole.dropped_cause
    # a gold answer that nobody can read is no zero: the group arrives without samples, with the cause
    dropped = by_index[8]
    assert dropped.dropped_cause == "scoring: gold_unparsable"
    assert not dropped.group.samples
    assert not dropped.verdicts
    assert scorer.verdicts == {"math/scored": 3, "math/unparsable": 1}


async def test_evaluation_groups_go_to_the_coordinator(redis: Redis) -> None:
    async with working(worker(redis, Scorer({"math": Exact()}))):
        await add(redis, group("85", purpose=pb.PURPOSE_EVALUATION), group("85"))
        [evaluated] = await scored(redis, count=1, stream=keys.evaluated(RUN))
        await scored(redis, count=1)
        await nothing_left(redis)
    assert evaluated.group.task.key.evaluation == "held-out"


BROKEN = {
    "not a protobuf message": b"\xff\xff\xff",
    "no run": pb.RolloutGroup(samples=[pb.Sample()]).SerializeToString(),
    "no samples": group().SerializeToString(),
    "no purpose": group("85", purpose=pb.PURPOSE_UNSPECIFIED).SerializeToString(),
    "nonsense reward": group("85", reward_json="{").SerializeToString(),
}


@pytest.mark.parametrize("kind", BROKEN)
async def test_a_broken_entry_is_a_dead_letter_after_three_deliveries_and_others_go_on(redis: Redis, kind: str) -> None:
    await Streams(redis).open_run(RUN)
    await Streams(redis).add(keys.ROLLOUTS, run_id=RUN, payload=BROKEN[kind])
    await add(redis, group("85"))
    async with working(worker(redis, Scorer({"math": Exact()}))):
        [letter] = await entries(redis, keys.dead(RUN), count=1)
        await scored(redis, count=1)
        await nothing_left(redis)
    assert letter[b"p"] == BROKEN[kind]
    assert int(letter[b"deliveries"]) == 3
    assert letter[b"cause"].startswith((b"broken group: ", b"unknown reward: "))


NOT_SERVED = {
    "a verifier": ('{"type": "verifier", "name": "not_yet"}', "there is no verifier 'not_yet'"),
    "an option": ('{"type": "verifier", "name": "exact_match", "options": {"not_yet": true}}', "not_yet"),
    "a type": ('{"type": "judge", "endpoint": "http://j/v1", "model": "m"}', "'judge' is not served here"),
}


@pytest.mark.parametrize("kind", NOT_SERVED)
async def test_a_group_whose_reward_only_another_pod_gives_waits_for_that_pod(redis: Redis, kind: str) -> None:
    reward_json, missing = NOT_SERVED[kind]
    # given an older pod, without the verifier of a newer one
    settings = RewardSettings()
    pool = VerifierPool(workers=1, limits=settings.limits, wall_s=60.0)  # nobody asks it
    older = Scorer({"math": Exact(), "verifier": rewards(settings, pool, Endpoints())["verifier"]})
    newer = Scorer({"verifier": Exact(), "judge": Exact()})
    old = worker(redis, older)
    async with working(old):
        await add(redis, group("85", "1", reward_json=reward_json))
        await until(lambda: old.groups["handed_back"] >= 4, what="the older pod hands it back time and again")
        await until(lambda: missing in old.trouble, what="its status to say why")  # while it holds the group
        assert not await redis.exists(keys.dead(RUN), keys.scored(RUN))
        # when a newer one comes, the group is scored
        async with working(worker(redis, newer, consumer="reward-1")):
            [done] = await scored(redis, count=1)
            await nothing_left(redis)
    assert [verdict.score for verdict in done.verdicts] == [1.0, 0.0]


async def test_a_bad_group_is_trouble_until_a_later_one_is_scored(redis: Redis) -> None:
    one = worker(redis, Scorer({"math": Exact()}))
    async with working(one):
        await Streams(redis).open_run(RUN)
        await Streams(redis).add(keys.ROLLOUTS, run_id=RUN, payload=BROKEN["no samples"])
        await entries(redis, keys.dead(RUN), count=1)
        assert one.trouble == "broken group: it has no samples"
        await add(redis, group("85"))
        await scored(redis, count=1)
        await until(lambda: one.trouble == "", what="the service is well again")
        assert "error" not in one.status()


async def test_a_reward_with_a_bug_costs_its_group_and_not_the_service(redis: Redis) -> None:
    class Buggy:
        async def score(self, spec: RewardSpec, items: Sequence[Item]) -> list[Verdict]:
            raise ZeroDivisionError

    async with working(worker(redis, Scorer({"math": Buggy()}))):
        await add(redis, group("85"))
        [letter] = await entries(redis, keys.dead(RUN), count=1)
        await nothing_left(redis)
    assert letter[b"cause"] == b"ZeroDivisionError in the reward service"


async def test_an_unavailable_reward_becomes_no_number_and_is_told_in_words(redis: Redis) -> None:
    # given a reward that is down
    reward = Exact()
    reward.down = True
    one = worker(redis, Scorer({"math": reward}), lease_s=0.5)
    other = worker(redis, Scorer({"math": Exact()}), consumer="reward-1", lease_s=0.5)
    async with working(one):
        await add(redis, group("85", "1"))
        await until(lambda: reward.asked > 20, what="the reward is asked again and again")
        # then the group is kept, under a lease that another consumer respects, and the status says why
        async with working(other):
            held_until = time.monotonic() + 1.5
            while time.monotonic() < held_until:
                assert await redis.xlen(keys.scored(RUN)) == 0
                assert "groups held: 1" in one.status()["waiting"][RUN]
                assert "math: the judge is down" in one.status()["waiting"][RUN]
                await asyncio.sleep(0.05)
        # and when it is back, the group goes its way
        reward.down = False
        [done] = await scored(redis, count=1)
        await nothing_left(redis)
        await until(lambda: "waiting" not in one.status(), what="nobody waits")
    assert [verdict.score for verdict in done.verdicts] == [1.0, 0.0]
    assert {verdict.status for verdict in done.verdicts} == {pb.VERDICT_STATUS_SCORED}


async def test_groups_that_wait_for_a_reward_leave_room_for_others(redis: Redis) -> None:
    class DownForSome(Exact):
        async def score(self, spec: RewardSpec, items: Sequence[Item]) -> list[Verdict]:
            self.down = items[0].answer == "never"
            return await super().score(spec, items)

    async with working(worker(redis, Scorer({"math": DownForSome()}))):
        await add(redis, *(group("85", answer="never", index=i) for i in range(20)))  # more than groups_in_flight
        await add(redis, group("85", index=99))
        [done] = await scored(redis, count=1)
    assert done.group.task.key.prompt_index == 99


async def test_two_workers_share_the_stream_and_lose_nothing(redis: Redis) -> None:
    workers = [worker(redis, Scorer({"math": Exact()}), consumer=f"reward-{i}") for i in range(2)]
    async with working(*workers):
        await add(redis, *(group("85", "1", index=i) for i in range(100)))
        done = await scored(redis, count=100)
        await nothing_left(redis)
    assert sorted(one.group.task.key.prompt_index for one in done) == list(range(100))
    assert all(one.groups["moved"] > 0 for one in workers)


async def test_the_group_of_a_worker_that_died_is_taken_over_after_its_lease(redis: Redis) -> None:
    # given a consumer that took a group and was never heard of again
    dead = StreamConsumer(redis, stream=keys.ROLLOUTS, group=keys.REWARD_GROUP, consumer="reward-dead", lease_s=0.5)
    await add(redis, group("85"))
    [taken] = await dead.take(1, wait_s=5)
    # then another one scores it
    async with working(worker(redis, Scorer({"math": Exact()}), lease_s=0.5)):
        await scored(redis, count=1)
        await nothing_left(redis)
    # and the dead one, should it come back, can do no harm
    assert await dead.hand_over(taken, run_id=RUN, to=keys.scored(RUN), payload=b"late") == "lost"


async def test_a_group_that_was_taken_away_is_counted_as_lost(redis: Redis) -> None:
    # given a worker that is held up in a check beyond what it can renew
    reward = Exact()
    reward.held_up.clear()
    slow = worker(redis, Scorer({"math": reward}))
    async with working(slow):
        await add(redis, group("85"))
        await until(lambda: reward.asked, what="the group is in work")
        await redis.xgroup_destroy(keys.ROLLOUTS, keys.REWARD_GROUP)  # nobody owns anything any more
        reward.held_up.set()
        await until(lambda: slow.groups["lost"], what="the group is lost")
        assert await redis.xlen(keys.scored(RUN)) <= 1


async def test_the_work_of_a_closed_run_is_dropped(redis: Redis) -> None:
    reward = Exact()
    reward.held_up.clear()
    one = worker(redis, Scorer({"math": reward}))
    async with working(one):
        await add(redis, group("85"))
        await until(lambda: reward.asked, what="the group is in work")
        await Streams(redis).close_run(RUN)
        reward.held_up.set()
        await until(lambda: one.groups["closed"], what="the group is dropped")
        await nothing_left(redis)
    assert await redis.exists(keys.scored(RUN)) == 0


async def test_a_drain_hands_back_what_is_not_finished_at_once(redis: Redis) -> None:
    # given a group in work that will not be finished soon
    reward = Exact()
    reward.held_up.clear()
    one = worker(redis, Scorer({"math": reward}), lease_s=60.0)
    running = asyncio.create_task(one.run())
    await add(redis, group("85"))
    await until(lambda: reward.asked, what="the group is in work")
    # when the worker is drained
    await asyncio.wait_for(one.drain(), timeout=10)
    await running
    # then the next one gets it without waiting for the lease
    async with working(worker(redis, Scorer({"math": Exact()}), consumer="reward-1", lease_s=60.0)):
        await scored(redis, count=1, timeout_s=10)
        await nothing_left(redis)


async def test_a_drain_with_time_finishes_what_is_in_work_and_takes_nothing_new(redis: Redis) -> None:
    # given groups in work, under leases that would run out, and one more that comes later
    reward = Exact()
    reward.held_up.clear()
    one = worker(redis, Scorer({"math": reward}), lease_s=0.5)
    running = asyncio.create_task(one.run())
    await add(redis, *(group("85", index=index) for index in range(3)))
    await until(lambda: reward.asked == 3, what="three groups are in work")
    # when the worker is drained beside another one
    draining = asyncio.create_task(one.drain(finish_s=60.0))
    other = worker(redis, Scorer({"math": Exact()}), consumer="reward-1", lease_s=0.5)
    async with working(other):
        await asyncio.sleep(0)
        await add(redis, group("85", index=3))
        await scored(redis, count=1, timeout_s=20)
        await until(lambda: other.groups["moved"] == 1, what="the later one is the other's")
        held_until = time.monotonic() + 1.5
        while time.monotonic() < held_until:  # leases are kept
            assert await redis.xlen(keys.scored(RUN)) == 1
            await asyncio.sleep(0.05)
        reward.held_up.set()
        await asyncio.wait_for(draining, timeout=20)
        await running
        # then it has finished its own
        await scored(redis, count=4, timeout_s=20)
        await nothing_left(redis)
    assert (one.groups["moved"], other.groups["moved"]) == (3, 1)


async def test_a_drain_does_not_wait_for_a_reward_that_is_down(redis: Redis) -> None:
    reward = Exact()
    reward.down = True
    one = worker(redis, Scorer({"math": reward}), lease_s=60.0)
    running = asyncio.create_task(one.run())
    await add(redis, group("85"))
    await until(lambda: "waiting" in one.status(), what="the group waits")
    await asyncio.wait_for(one.drain(finish_s=3600.0), timeout=20)
    await running
    async with working(worker(redis, Scorer({"math": Exact()}), consumer="reward-1", lease_s=60.0)):
        await scored(redis, count=1, timeout_s=10)


async def test_a_window_of_known_answers_passes_in_milliseconds(redis: Redis) -> None:
    one = worker(redis, Scorer({"math": Exact()}))
    async with working(one):
        groups = [group(*(str(80 + i) for i in range(8)), index=index) for index in range(32)]
        await add(redis, *groups)
        await scored(redis, count=32, timeout_s=5)
    assert one.groups["moved"] == 32


async def test_redis_may_go_away_and_come_back(tmp_path_factory: pytest.TempPathFactory) -> None:
    # given a worker on a server of its own
    folder = Path(str(tmp_path_factory.mktemp("r")))
    one_server = serving(folder)
    redis = redis_client.connect(valkey.url(folder))
    reward = Exact()
    one = worker(redis, Scorer({"math": reward}), lease_s=0.5)
    try:
        async with working(one):
            await add(redis, group("85", index=0))
            await scored(redis, count=1)
            # when the server dies with a group in work
            reward.held_up.clear()
            await add(redis, group("85", index=1))
            await until(lambda: reward.asked == 2, what="the second group is in work")
            one_server.kill()
            one_server.wait()
            reward.held_up.set()
            await until(lambda: one.status().get("error", "").startswith("Redis"), what="the worker says so")
            # then it waits, and goes on with what the server that comes back remembers
            one_server = serving(folder)
            await add(redis, group("85", index=2))
            async with asyncio.timeout(30):
                while not {2} <= {g.group.task.key.prompt_index for g in await scored(redis, count=1)}:
                    await asyncio.sleep(0.01)
            await until(lambda: "error" not in one.status(), what="the worker is well again")
    finally:
        await redis.aclose()
        one_server.kill()
        one_server.wait()


def serving(folder: Path) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(valkey.command(folder), stdout=subprocess.DEVNULL)
    wait_until_up(folder, process)
    return process
