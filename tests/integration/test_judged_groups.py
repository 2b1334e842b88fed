"""Groups in the stream that a judge scores: waiting, given up, compared with each other and with the seed."""

from __future__ import annotations

import json

from redis.asyncio import Redis

from services.reward.endpoints import Endpoints
from services.reward.judge_reward import JudgeReward
from services.reward.scorer import Scorer
from syncline.membership import Registration, members
from syncline.streams import Streams
from syncline.v1 import rollout_pb2 as pb
from tests.integration.judging import judge, shorter_wins
from tests.integration.reward_groups import add, group, scored, worker
from tests.integration.scripted_openai import error, says, scripted
from tests.integration.test_reward_stream import nothing_left, working
from tests.waiting import until


async def test_a_group_waits_for_a_judge_that_is_down_and_the_fleet_says_so(redis: Redis, endpoints: Endpoints) -> None:
    down = True
    async with scripted(lambda _: error(503, "starting") if down else says("6.5")) as server:
        reward_json = judge(server).model_dump_json()
        one = worker(redis, Scorer({"judge": JudgeReward(endpoints)}))
        registration = Registration(
            redis, role="reward", id="reward-0", address="unix:/none", ttl_s=6.0, status=one.status
        )
        async with working(one):
            await add(redis, group("red", "blue", reward_json=reward_json))
            await until(lambda: "waiting" in one.status(), what="the worker to say that it waits")
            await registration.beat()
            (member,) = await members(redis, "reward")
            assert member.status["waiting"]["run-a"].startswith("no reward for 0 s (groups held: 1)")
            assert f"judge at {server.address}: status 503: starting" in member.status["waiting"]["run-a"]
            assert await redis.xlen("syncline:scored:run-a") == 0

            down = False
            (done,) = await scored(redis, count=1)
            assert [verdict.score for verdict in done.verdicts] == [6.5, 6.5]
            await until(lambda: "waiting" not in one.status(), what="the worker to say that all is well")


async def test_a_judge_is_not_asked_for_a_run_that_is_over(redis: Redis, endpoints: Endpoints) -> None:
    # Given a run whose groups wait for a judge that is down, more than are held at a time
    async with scripted(lambda _: error(503, "down")) as server:
        one = worker(redis, Scorer({"judge": JudgeReward(endpoints)}), lease_s=0.5)
        rolled = [group("red", reward_json=judge(server).model_dump_json(), index=index) for index in range(200)]
        async with working(one):
            await add(redis, *rolled)
            await until(lambda: "run-a" in one.status().get("waiting", {}), what="the groups to wait")
            # When it is cancelled, then nothing of it is left, and nobody waits for it
            await Streams(redis).close_run("run-a")
            await until(lambda: one.status()["phase"] == "idle", what="the groups to be let go")
            await nothing_left(redis)
            assert one.trouble == ""
            # And the next run's groups are scored as if there had been none
            asked = len(server.requests)
            await add(redis, group("blue", reward_json=judge(server).model_dump_json(), run_id="run-b"))
            await until(lambda: "run-b" in one.status().get("waiting", {}), what="the next run to wait")
    assert all("blue" in request.question for request in server.requests[asked:])


async def test_what_a_run_that_is_over_left_in_the_stream_is_never_scored(redis: Redis, endpoints: Endpoints) -> None:
    async with scripted(lambda _: says("7")) as server:
        await add(redis, group("red", reward_json=judge(server).model_dump_json()))
        await Streams(redis).close_run("run-a")
        async with working(worker(redis, Scorer({"judge": JudgeReward(endpoints)}))):
            await nothing_left(redis)
    assert server.requests == []


async def test_the_answers_of_a_group_are_compared_with_each_other(redis: Redis, endpoints: Endpoints) -> None:
    scorer = Scorer({"judge": JudgeReward(endpoints)})
    async with scripted(shorter_wins) as server, working(worker(redis, scorer)):
        reward_json = judge(server, mode="pairwise").model_dump_json()
        await add(redis, group("aaa", "a", "aa", reward_json=reward_json))
        (done,) = await scored(redis, count=1)
    assert [verdict.score for verdict in done.verdicts] == [0.0, 1.0, 0.5]
    assert len(server.requests) == 3 * 2


async def test_each_answer_of_an_evaluation_is_compared_with_the_seeds_answer_at_its_place(
    redis: Redis, endpoints: Endpoints
) -> None:
    scorer = Scorer({"judge": JudgeReward(endpoints)})
    async with scripted(shorter_wins) as server, working(worker(redis, scorer)):
        reward_json = judge(server, mode="versus_seed").model_dump_json()
        rolled = group("a", "aaa", "", "bb", reward_json=reward_json, purpose=pb.PURPOSE_EVALUATION)
        rolled.task.seed_answers.extend(["aa", "aa", "aa"])
        await add(redis, rolled)
        (done,) = await scored(redis, count=1, stream="syncline:evaluated:run-a")
        # an empty answer of the seed is compared like any other, and one that is missing is not
        rolled.task.seed_answers[:] = ["", ""]
        del rolled.samples[2:]
        await add(redis, rolled)
        _, again = await scored(redis, count=2, stream="syncline:evaluated:run-a")
    assert [verdict.score for verdict in done.verdicts] == [1.0, 0.0, 1.0, 0.5]
    assert done.verdicts[3].cause == "the seed itself"
    assert [verdict.score for verdict in again.verdicts] == [0.0, 0.0]


async def test_a_group_whose_conversation_is_broken_is_refused_by_that_name(redis: Redis) -> None:
    one = worker(redis, Scorer({"judge": JudgeReward(Endpoints())}))
    async with working(one):
        rolled = group("red", reward_json='{"type": "judge", "endpoint": "http://127.0.0.1:9/v1", "model": "m"}')
        rolled.task.messages_json = '[{"role": "user"}]'
        await add(redis, rolled)
        await until(lambda: one.groups["dead"], what="the group to be buried")
    assert "broken group: messages_json" in one.error


async def test_a_sample_that_a_judge_could_not_grade_is_handed_over_without_a_score(
    redis: Redis, endpoints: Endpoints
) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name a colour."}]
    scorer = Scorer({"judge": JudgeReward(endpoints)})
    async with (
        scripted(lambda request: says("?" if "blue" in request.question else "7")) as server,
        working(worker(redis, scorer)),
    ):
        rolled = group("red", "blue", reward_json=judge(server).model_dump_json())
        rolled.task.messages_json = json.dumps(messages)
        await add(redis, rolled)
        (done,) = await scored(redis, count=1)
    good, unread = done.verdicts
    assert (good.status, good.score, good.raw_score) == (pb.VERDICT_STATUS_SCORED, 7.0, 7.0)
    assert (unread.status, unread.HasField("score")) == (pb.VERDICT_STATUS_UNPARSABLE, False)
    assert unread.cause == "no judgment: missing 1"
    assert all("[system]\nBe brief." in request.question for request in server.requests)
