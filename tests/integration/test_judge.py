"""A judge over real HTTP: a server that answers well, badly, late, or not at all."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from services.reward.endpoints import Endpoints
from services.reward.judge_reward import JudgeReward
from services.reward.model_reward import ModelReward
from services.reward.scorer import Scorer
from services.reward.verdicts import Item, Verdict
from syncline.backoff import Backoff
from syncline.membership import Registration, members
from syncline.rewardspec import JudgeSpec, ModelSpec
from syncline.streams import Streams
from syncline.v1 import rollout_pb2 as pb
from tests.integration.reward_groups import add, group, scored, until, worker
from tests.integration.scripted_openai import Request, ScriptedServer, answer, error, says, scripted
from tests.integration.test_reward_stream import nothing_left, working

KEY = "sk-secret-0123456789"


@pytest.fixture
async def endpoints() -> AsyncIterator[Endpoints]:
    made = Endpoints(backoff=Backoff(first_s=0.01, longest_s=0.1))
    yield made
    await made.close()


def judge(server: ScriptedServer, **options: Any) -> JudgeSpec:
    return JudgeSpec(type="judge", endpoint=server.address, model="m", timeout_s=5.0, **options)


def reward_model(server: ScriptedServer) -> ModelSpec:
    return ModelSpec(type="reward_model", endpoint=server.address, model="m", timeout_s=5.0)


def items(*completions: str, seeds: tuple[str | None, ...] = ()) -> list[Item]:
    told = ({"role": "user", "content": "Name a colour."},)
    return [
        Item("", text, "", messages=told, seed_answer=seeds[index] if seeds else None)
        for index, text in enumerate(completions)
    ]


def numbers(verdicts: list[Verdict]) -> list[tuple[str, float | None]]:
    return [(verdict.status, verdict.score) for verdict in verdicts]


def shorter_wins(request: Request) -> bytes:
    """A judge with a simple taste, asked by our own template."""
    first = request.question.partition("<answer_a>\n")[2].partition("\n</answer_a>")[0]
    second = request.question.partition("<answer_b>\n")[2].partition("\n</answer_b>")[0]
    winner = "tie" if len(first) == len(second) else "A" if len(first) < len(second) else "B"
    return says(f"Length decides. <winner>{winner}</winner>")


async def test_a_grade_is_asked_for_with_the_specs_options_and_the_key(
    endpoints: Endpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYNCLINE_KEY_MY_JUDGE", KEY)
    async with scripted(lambda _: says("Fine. <score>8/10</score>")) as server:
        spec = judge(server, key="my-judge", temperature=0.25, top_p=0.5, max_tokens=77)
        assert numbers(await JudgeReward(endpoints).score(spec, items("red"))) == [("scored", 8.0)]
    (request,) = server.requests
    assert request.path == "/v1/chat/completions"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert "Name a colour." in request.question
    assert "<answer>\nred\n</answer>" in request.question
    sent = {name: request.body[name] for name in ("model", "temperature", "top_p", "max_tokens")}
    assert sent == {"model": "m", "temperature": 0.25, "top_p": 0.5, "max_tokens": 77}


async def test_a_template_of_ones_own_is_used(endpoints: Endpoints) -> None:
    async with scripted(lambda _: says("5")) as server:
        await JudgeReward(endpoints).score(judge(server, template="Q: {prompt} A: {answer}"), items("red"))
    assert server.requests[0].question == "Q: Name a colour. A: red"


async def test_several_judgments_are_averaged_over_those_that_can_be_read(endpoints: Endpoints) -> None:
    replies = iter([says("4"), says("what?"), says("7"), says("still no idea")])
    async with scripted(lambda _: next(replies)) as server:
        (verdict,) = await JudgeReward(endpoints).score(judge(server, judgments=3, concurrency=1), items("red"))
    assert (verdict.status, verdict.score, verdict.cause) == ("scored", 5.5, "not read: missing 1")
    assert len({request.body["seed"] for request in server.requests}) == 4, "one seed each, the second chance too"


@pytest.mark.parametrize(
    ("reply", "cause"),
    [
        (says("no comment"), "missing 2"),
        (says("<score>11</score>"), "out_of_range 2"),
        (says("<score>good</score>"), "malformed 2"),
        (says("", refusal="I would rather not"), "refusal 2"),
        (says("<score>9</score> and", finished="length"), "truncated 2"),
        (
            error(400, "This model's maximum context length is 64 tokens. Please reduce the length."),
            "too_long 2 (This model's maximum context length is 64 tokens. Please reduce the length.)",
        ),
    ],
)
async def test_an_answer_without_one_readable_judgment_is_unparsable_and_has_no_score(
    endpoints: Endpoints, reply: bytes, cause: str
) -> None:
    async with scripted(lambda _: reply) as server:
        (verdict,) = await JudgeReward(endpoints).score(judge(server, judgments=2), items("red"))
    assert (verdict.status, verdict.score, verdict.cause) == ("unparsable", None, f"no judgment: {cause}")


async def test_every_pair_is_compared_and_the_share_won_is_the_score(endpoints: Endpoints) -> None:
    async with scripted(shorter_wins) as server:
        verdicts = await JudgeReward(endpoints).score(judge(server, mode="pairwise"), items("aaa", "a", "aa", "bb"))
    assert numbers(verdicts) == [
        ("scored", 0.0),
        ("scored", 1.0),
        ("scored", 0.5),
        ("scored", 0.5),
    ]
    assert len(server.requests) == 4 * 3


async def test_a_pivot_costs_two_calls_an_answer(endpoints: Endpoints) -> None:
    async with scripted(shorter_wins) as server:
        spec = judge(server, mode="pairwise", opponents="pivot")
        verdicts = await JudgeReward(endpoints).score(spec, items("aaaa", "a", "aaa", "aa"))
    assert len(server.requests) == 2 * 3
    assert {verdict.status for verdict in verdicts} == {"scored"}


async def test_an_answer_alone_has_nobody_to_win_against(endpoints: Endpoints) -> None:
    async with scripted(shorter_wins) as server:
        (verdict,) = await JudgeReward(endpoints).score(judge(server, mode="pairwise"), items("red"))
    assert (verdict.status, verdict.score) == ("unparsable", None)
    assert verdict.cause == "no judgment: nobody to compare with"


async def test_against_the_seed_wins_are_counted_in_both_orders(endpoints: Endpoints) -> None:
    async with scripted(shorter_wins) as server:
        verdicts = await JudgeReward(endpoints).score(
            judge(server, mode="versus_seed"), items("a", "aaa", "bb", "red", seeds=("aa", "aa", "aa", None))
        )
    assert numbers(verdicts) == [("scored", 1.0), ("scored", 0.0), ("scored", 0.5), ("scored", 0.5)]
    assert verdicts[3].cause == "the seed itself"
    assert len(server.requests) == 2 * 3


async def test_one_comparison_that_nobody_answers_makes_the_whole_group_wait_and_is_the_only_one_asked_again(
    endpoints: Endpoints,
) -> None:
    down = True

    def script(request: Request) -> bytes:
        unlucky = "<answer_a>\na\n" in request.question and "<answer_b>\naaa\n" in request.question
        return error(503, "overloaded") if down and unlucky else shorter_wins(request)

    reward = JudgeReward(endpoints)
    async with scripted(script) as server:
        spec = judge(server, mode="pairwise")
        first = await reward.score(spec, items("a", "aa", "aaa"))
        assert [(verdict.status, verdict.score) for verdict in first] == [("unavailable", 0.0)] * 3
        down, asked = False, len(server.requests)
        assert numbers(await reward.score(spec, items("a", "aa", "aaa"))) == [
            ("scored", 1.0),
            ("scored", 0.5),
            ("scored", 0.0),
        ]
        assert len(server.requests) == asked + 1


@pytest.mark.parametrize(
    ("failure", "cause"),
    [
        (error(429, "slow down", retry_after="0"), "status 429: slow down (attempts: 4)"),
        (error(500, "oops"), "status 500: oops (attempts: 4)"),
        (error(503, "loading"), "status 503: loading (attempts: 4)"),
        (answer(200, "<html>not what you think</html>"), "wrong form"),
        (answer(200, {"choices": []}), "wrong form"),
        (answer(200, {"choices": [{"message": {"content": ["a"]}, "finish_reason": "stop"}]}), "wrong form"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{", "the connection broke off"),
        (b"", "the connection broke off"),
    ],
)
async def test_what_may_pass_is_tried_four_times_and_then_unavailable(
    endpoints: Endpoints, failure: bytes, cause: str
) -> None:
    async with scripted(lambda _: failure) as server:
        (verdict,) = await JudgeReward(endpoints).score(judge(server), items("red"))
    assert verdict.status == "unavailable"
    assert cause in verdict.cause
    assert len(server.requests) == 4


async def test_a_failure_that_passes_is_not_seen(endpoints: Endpoints) -> None:
    replies = iter([error(500, "oops"), b"", error(429, "busy"), says("6")])
    async with scripted(lambda _: next(replies)) as server:
        assert numbers(await JudgeReward(endpoints).score(judge(server), items("red"))) == [("scored", 6.0)]


@pytest.mark.parametrize(
    ("failure", "advice"),
    [
        (error(401, f"bad key {KEY}"), "it does not let us in; check the key 'judge'"),
        (error(404, "The model `m` does not exist."), "check reward.endpoint and reward.model ('m')"),
        (error(400, "unknown parameter: seed"), "check reward.endpoint, reward.model and its options"),
        (answer(307, "", location="http://elsewhere/v1"), "status 307"),
    ],
)
async def test_a_wrong_configuration_is_unavailable_at_once_and_says_what_to_do(
    endpoints: Endpoints, failure: bytes, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYNCLINE_KEY_JUDGE", KEY)
    async with scripted(lambda _: failure) as server:
        (verdict,) = await JudgeReward(endpoints).score(judge(server, key="judge"), items("red"))
    assert verdict.status == "unavailable"
    assert advice in verdict.cause
    assert len(server.requests) == 1


async def test_a_key_that_a_server_repeats_is_not_shown(endpoints: Endpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNCLINE_KEY_JUDGE", KEY)
    for failure in (error(500, f"cannot bill {KEY}"), error(400, f"{KEY} has no seed"), answer(200, f"hello {KEY}")):
        async with scripted(lambda _, failure=failure: failure) as server:
            (verdict,) = await JudgeReward(endpoints).score(judge(server, key="judge"), items("red"))
        assert "***" in verdict.cause
        assert KEY not in repr(verdict)


async def test_a_key_that_is_not_there_is_named_with_its_variable_and_its_file(tmp_path: Path) -> None:
    endpoints = Endpoints(keys_dir=tmp_path)
    async with scripted(lambda _: says("6")) as server:
        spec = judge(server, key="my-judge")
        (verdict,) = await JudgeReward(endpoints).score(spec, items("red"))
        assert verdict.status == "unavailable"
        assert "SYNCLINE_KEY_MY_JUDGE" in verdict.cause
        assert server.requests == []

        (tmp_path / "my-judge").write_text(f"{KEY}\n")
        assert numbers(await JudgeReward(endpoints).score(spec, items("red"))) == [("scored", 6.0)]
        assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"
    await endpoints.close()


async def test_a_judge_that_hangs_is_given_up_after_twice_its_timeout(endpoints: Endpoints) -> None:
    async def hang(request: Request) -> bytes:
        await asyncio.sleep(60)
        return b""

    async with scripted(lambda request: hang(request)) as server:
        spec = JudgeSpec(type="judge", endpoint=server.address, model="m", timeout_s=1.5)
        started = time.monotonic()
        (verdict,) = await JudgeReward(endpoints).score(spec, items("red"))
        assert time.monotonic() - started < 20.0
    assert verdict.status == "unavailable"
    assert verdict.cause.startswith("no answer within 1.5 s")
    assert len(server.requests) == 2


async def test_a_judge_that_is_not_there_says_so(endpoints: Endpoints) -> None:
    async with scripted(lambda _: b"") as server:
        pass  # the port is free again
    (verdict,) = await JudgeReward(endpoints).score(judge(server), items("red"))
    assert verdict.status == "unavailable"
    assert "no connection" in verdict.cause


async def test_all_groups_together_keep_to_the_endpoints_concurrency(endpoints: Endpoints) -> None:
    arrived = asyncio.Event()

    async def slow(request: Request) -> bytes:
        if server.most_at_once == 3:
            arrived.set()
        await asyncio.wait_for(arrived.wait(), timeout=10)  # three come together, or the test fails
        await asyncio.sleep(0.01)
        return says("5")

    reward = JudgeReward(endpoints)
    async with scripted(lambda request: slow(request)) as server:
        spec = judge(server, concurrency=3)
        groups = [items(*(f"{number} {i}" for i in range(4))) for number in range(5)]
        await asyncio.gather(*(reward.score(spec, one) for one in groups))
    assert server.most_at_once == 3
    assert len(server.requests) == 20


async def test_requests_keep_their_distance_under_a_rate_limit(endpoints: Endpoints) -> None:
    async with scripted(lambda _: says("5")) as server:
        started = time.monotonic()
        await JudgeReward(endpoints).score(judge(server, requests_per_minute=1200.0), items("a", "b", "c", "d", "e"))
        assert time.monotonic() - started >= 4 * 0.05


async def test_a_group_that_is_given_up_leaves_no_request_behind(endpoints: Endpoints) -> None:
    gone = asyncio.Event()
    asked = asyncio.Event()

    async def hang(request: Request) -> bytes:
        asked.set()
        try:
            await asyncio.sleep(60)
        finally:
            gone.set()
        return b""

    async with scripted(lambda request: hang(request)) as server:
        scoring = asyncio.create_task(JudgeReward(endpoints).score(judge(server, concurrency=1), items("a", "b")))
        await asyncio.wait_for(asked.wait(), timeout=10)
        scoring.cancel()
        with pytest.raises(asyncio.CancelledError):
            await scoring
        server.script = lambda _: says("5")
        again = judge(server, concurrency=1)  # the same limit, whose one place is free again
        verdicts = await asyncio.wait_for(JudgeReward(endpoints).score(again, items("c")), timeout=10)
        assert numbers(verdicts) == [("scored", 5.0)]


# -- reward models -----------------------------------------------------------------------------


def classified(*numbers: float) -> bytes:
    return answer(200, {"data": [{"index": 0, "label": "LABEL_0", "probs": numbers, "num_classes": len(numbers)}]})


async def test_a_reward_model_gets_the_conversation_and_its_raw_score_is_kept(endpoints: Endpoints) -> None:
    async with scripted(lambda _: classified(-7.25)) as server:
        assert numbers(await ModelReward(endpoints).score(reward_model(server), items("red"))) == [("scored", -7.25)]
    (request,) = server.requests
    assert request.path == "/classify"
    assert request.body["use_activation"] is False
    assert request.body["messages"] == [
        {"role": "user", "content": "Name a colour."},
        {"role": "assistant", "content": "red"},
    ]


@pytest.mark.parametrize(
    ("reply", "status", "cause"),
    [
        (error(400, "This model's maximum context length is 64 tokens"), "unparsable", "too_long: This model's"),
        (answer(200, '{"data": [{"probs": [NaN]}]}'), "unparsable", "not_finite: the model gave nan"),
        (classified(0.1, 0.9), "unavailable", "the model has 2 classes; name a reward model"),
        (error(404, "The model `m` does not exist."), "unavailable", "check reward.endpoint and reward.model"),
    ],
)
async def test_what_a_reward_model_cannot_score_is_told_and_never_a_number(
    endpoints: Endpoints, reply: bytes, status: str, cause: str
) -> None:
    async with scripted(lambda _: reply) as server:
        (verdict,) = await ModelReward(endpoints).score(reward_model(server), items("red"))
    assert verdict.status == status
    assert cause in verdict.cause
    assert not verdict.to_message().HasField("score")


# -- through the stream ------------------------------------------------------------------------


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
