"""A judge over real HTTP: what it is asked, and what its judgments come to."""

from __future__ import annotations

import asyncio

import pytest

from services.reward.endpoints import Endpoints
from services.reward.judge_reward import JudgeReward
from tests.integration.judging import KEY, counted, items, judge, numbers, shorter_wins
from tests.integration.scripted_openai import Request, error, says, scripted


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
    outcome = cause.split()[0]
    before = counted("syncline_reward_judgments_total", outcome=outcome)
    async with scripted(lambda _: reply) as server:
        (verdict,) = await JudgeReward(endpoints).score(judge(server, judgments=2), items("red"))
    assert (verdict.status, verdict.score, verdict.cause) == ("unparsable", None, f"no judgment: {cause}")
    # each of the two was asked for once more, but for what is too long: that stays so
    assert counted("syncline_reward_judgments_total", outcome=outcome) - before == (2 if outcome == "too_long" else 4)


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
        assert [(verdict.status, verdict.score) for verdict in first] == [("unavailable", None)] * 3
        down, asked = False, len(server.requests)
        assert numbers(await reward.score(spec, items("a", "aa", "aaa"))) == [
            ("scored", 1.0),
            ("scored", 0.5),
            ("scored", 0.0),
        ]
        assert len(server.requests) == asked + 1


async def test_equal_answers_are_asked_about_once_also_at_the_same_time(endpoints: Endpoints) -> None:
    async with scripted(lambda _: says("5")) as server:
        reward = JudgeReward(endpoints)
        groups = await asyncio.gather(
            *(reward.score(judge(server, judgments=2), items("red", "red")) for _ in range(4))
        )
    assert [numbers(group) for group in groups] == [[("scored", 5.0)] * 2] * 4
    assert len(server.requests) == 2, "two judgments, each with a seed of its own"


async def test_who_gives_up_does_not_take_the_judgment_from_others(endpoints: Endpoints) -> None:
    asked, go = asyncio.Event(), asyncio.Event()

    async def slow(request: Request) -> bytes:
        asked.set()
        await go.wait()
        return says("5")

    async with scripted(lambda request: slow(request)) as server:
        reward = JudgeReward(endpoints)
        impatient = asyncio.create_task(reward.score(judge(server), items("red")))
        patient = asyncio.create_task(reward.score(judge(server), items("red")))
        await asyncio.wait_for(asked.wait(), timeout=10)
        impatient.cancel()
        await asyncio.gather(impatient, return_exceptions=True)
        go.set()
        assert numbers(await asyncio.wait_for(patient, timeout=10)) == [("scored", 5.0)]
    assert len(server.requests) == 1


async def test_equal_answers_tie_without_a_question(endpoints: Endpoints) -> None:
    async with scripted(shorter_wins) as server:
        verdicts = await JudgeReward(endpoints).score(judge(server, mode="pairwise"), items("aa", "aa", "a"))
    assert numbers(verdicts) == [("scored", 0.25), ("scored", 0.25), ("scored", 1.0)]
    assert len(server.requests) == 2, "the two equal answers against the third ask the same"
