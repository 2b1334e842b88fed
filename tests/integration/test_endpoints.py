"""A judge over real HTTP that answers badly, late, or not at all, and limits that are kept."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path

import pytest

from services.reward.endpoints import Endpoints
from services.reward.judge_reward import JudgeReward
from syncline.rewardspec import JudgeSpec
from tests.integration.judging import FAILED, KEY, counted, items, judge, numbers
from tests.integration.scripted_openai import Request, answer, error, says, scripted


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
        (answer(200, "no gzip", content_encoding="gzip"), "an answer that cannot be unpacked"),
    ],
)
async def test_what_may_pass_is_tried_four_times_and_then_unavailable(
    endpoints: Endpoints, failure: bytes, cause: str
) -> None:
    before = {name: counted(name, **labels) for name, labels in FAILED.items()}
    async with scripted(lambda _: failure) as server:
        (verdict,) = await JudgeReward(endpoints).score(judge(server), items("red"))
    assert verdict.status == "unavailable"
    assert cause in verdict.cause
    assert len(server.requests) == 4
    assert {name: counted(name, **labels) - before[name] for name, labels in FAILED.items()} == {
        "syncline_reward_judgments_total": 1,
        "syncline_reward_retries_total": 4,
    }


async def test_a_failure_that_passes_is_not_seen(endpoints: Endpoints) -> None:
    replies = iter([error(500, "oops"), b"", error(429, "busy"), says("6")])
    async with scripted(lambda _: next(replies)) as server:
        assert numbers(await JudgeReward(endpoints).score(judge(server), items("red"))) == [("scored", 6.0)]


async def test_a_request_that_waits_for_its_turn_has_all_its_attempts(endpoints: Endpoints) -> None:
    asked: Counter[str] = Counter()

    async def hiccups(request: Request) -> bytes:
        asked[request.question] += 1
        await asyncio.sleep(0.2)
        return error(503, "hiccup") if asked[request.question] == 1 else says("5")

    # given a judge that takes one request at a time, and more of them than it can take within twice the timeout
    async with scripted(lambda request: hiccups(request)) as server:
        spec = JudgeSpec(
            type="judge", endpoint=server.address, model="m", timeout_s=1.0, concurrency=1, template="{answer}"
        )
        verdicts = await JudgeReward(endpoints).score(spec, items(*(f"answer {i}" for i in range(8))))
    assert numbers(verdicts) == [("scored", 5.0)] * 8


async def test_when_a_server_asks_to_wait_nobody_asks_it_meanwhile(endpoints: Endpoints) -> None:
    at: list[float] = []

    def busy_once(request: Request) -> bytes:
        at.append(time.monotonic())
        return error(429, "slow down", retry_after="1.5") if len(at) == 1 else says("5")

    async with scripted(busy_once) as server:
        spec = judge(server, concurrency=1)
        verdicts = await JudgeReward(endpoints).score(spec, items("a", "b", "c", "d"))
    assert numbers(verdicts) == [("scored", 5.0)] * 4
    assert at[1] - at[0] >= 1.4


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


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (f"{KEY}\n{KEY}-of-yesterday\n".encode(), "has 2 lines"),
        (f"\u201c{KEY}\u201d".encode(), "holds spaces, or characters that are not ASCII"),
        (f"Bearer {KEY}".encode(), "holds spaces"),
        (f"{KEY}\n".encode("utf-16"), "is not UTF-8"),
        (f"cl\u00e9-{KEY}".encode("latin-1"), "is not UTF-8"),
    ],
    ids=["two lines", "smart quotes", "with its scheme", "UTF-16", "Latin-1"],
)
async def test_a_file_that_holds_no_key_is_named_with_what_is_wrong_and_never_shown(
    tmp_path: Path, content: bytes, said: str
) -> None:
    (tmp_path / "judge").write_bytes(content)
    endpoints = Endpoints(keys_dir=tmp_path)
    async with scripted(lambda _: says("6")) as server:
        (verdict,) = await JudgeReward(endpoints).score(judge(server, key="judge"), items("red"))
        assert server.requests == []
    assert verdict.status == "unavailable"
    assert f"the file {tmp_path / 'judge'} {said}" in verdict.cause
    assert verdict.cause.endswith("put the key there and nothing else")
    assert KEY not in repr(verdict)
    await endpoints.close()


async def test_a_byte_order_mark_is_no_part_of_a_key(tmp_path: Path) -> None:
    (tmp_path / "judge").write_bytes(b"\xef\xbb\xbf" + KEY.encode() + b"\r\n")
    endpoints = Endpoints(keys_dir=tmp_path)
    async with scripted(lambda _: says("6")) as server:
        spec = judge(server, key="judge")
        assert numbers(await JudgeReward(endpoints).score(spec, items("red"))) == [("scored", 6.0)]
        assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"
    await endpoints.close()


async def test_an_address_that_no_request_can_be_sent_to_is_unavailable(endpoints: Endpoints) -> None:
    for address in ("http://[::1", "http://xn--/v1", "http://127.0.0.1:99999/v1"):
        spec = JudgeSpec(type="judge", endpoint=address, model="m", timeout_s=5.0)
        (verdict,) = await JudgeReward(endpoints).score(spec, items("red"))
        assert verdict.status == "unavailable"
        assert "mend reward.endpoint" in verdict.cause


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
