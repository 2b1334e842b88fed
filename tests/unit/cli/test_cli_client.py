"""The REST client: pages, events, and refusals as the errors they stand for. The transport is httpx's own mock."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from services.cli.client import Api, Event, parse_events
from syncline.errors import Conflict, InvalidSpec, NotFound, SynclineError, Unavailable

Answer = Callable[[httpx.Request], httpx.Response]


def api(answer: Answer, *, token: str = "") -> Api:
    return Api("http://127.0.0.1:8080/", token=token, transport=httpx.MockTransport(answer))


def problem(status: int, code: str, **more: Any) -> httpx.Response:
    return httpx.Response(status, json={"code": code, "detail": f"it is {code}", "title": "t"} | more)


def test_events_are_parsed_and_heartbeats_left_out() -> None:
    text = (
        ': ping\r\n\r\nevent: snapshot\r\ndata: {"a": 1}\r\n\r\nid: 7\nevent: step\ndata: {"b":\ndata: 2}\n\nid: 8\n\n'
    )
    assert list(parse_events(iter(text.splitlines()))) == [
        Event("", "snapshot", {"a": 1}),
        Event("7", "step", {"b": 2}),
    ]


def test_a_broken_stream_goes_on_after_the_last_event() -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/events"):
            asked.append(request.headers.get("last-event-id", ""))
            number = len(asked)
            return httpx.Response(200, text=f'id: {number}\nevent: message\ndata: {{"text": "{number}"}}\n\n')
        return httpx.Response(200, json={"state": "running" if len(asked) < 3 else "succeeded"})

    events = list(api(answer).follow("r"))
    assert [event.id for event in events] == ["1", "2", "3"]
    assert asked == ["", "1", "2"]


def test_all_pages_are_read() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        second = request.url.params.get("page_token") == "next"
        page = {"steps": [{"step": 1 if second else 0}], "next_page_token": "" if second else "next"}
        return httpx.Response(200, json=page)

    assert api(answer).steps("r") == [{"step": 0}, {"step": 1}]


def test_a_refused_spec_keeps_every_problem() -> None:
    errors = [{"path": "steps", "problem": "0 is out of range", "allowed": ">= 1"}]
    with pytest.raises(InvalidSpec, match=r"steps: 0 is out of range; allowed: >= 1"):
        api(lambda _: problem(422, "invalid_spec", errors=errors)).submit({})


@pytest.mark.parametrize(("code", "status", "error"), [("not_found", 404, NotFound), ("conflict", 409, Conflict)])
def test_a_problem_is_the_error_that_the_server_raised(code: str, status: int, error: type[SynclineError]) -> None:
    with pytest.raises(error, match=f"it is {code}"):
        api(lambda _: problem(status, code)).run("r")


def test_a_server_that_is_no_coordinator_is_told_apart() -> None:
    page = httpx.Response(200, text="<html>hello</html>")
    assert not api(lambda _: page).answers()
    assert not api(lambda _: httpx.Response(404, text="nothing here")).answers()
    assert api(lambda _: httpx.Response(200, json={"runs": [], "next_page_token": ""})).answers()
    assert api(lambda _: problem(401, "unauthorized")).answers()
    with pytest.raises(SynclineError, match="is not Syncline"):
        api(lambda _: page).runs()


def test_no_answer_says_how_to_start_one() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("connection refused", request=request)

    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:8080.*make up"):
        api(refuse).runs()


def test_the_token_travels_as_a_bearer() -> None:
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers.get("authorization", ""))
        return httpx.Response(200, json=json.loads('{"runs": []}'))

    api(answer, token="secret").runs()
    api(answer).runs()
    assert seen == ["Bearer secret", ""]


@pytest.mark.parametrize(
    ("states", "meant"),
    [
        (["cancelled", "paused", "succeeded"], "run-1"),
        (["failed", "succeeded"], "run-0"),
        (["succeeded", "cancelled"], None),
        (["running"], None),
        ([], None),
    ],
)
def test_the_run_to_resume_is_the_paused_one_or_the_newest_that_can_go_on(states: list[str], meant: str | None) -> None:
    """`states` are those of the runs, newest first."""
    runs = [{"id": f"run-{n}", "state": state, "created_at": -n} for n, state in enumerate(states)]
    client = api(lambda request: httpx.Response(200, json={"runs": runs, "next_page_token": ""}))
    if meant is None:
        with pytest.raises(SynclineError, match="name the one that you mean"):
            client.only_held()
    else:
        assert client.only_held()["id"] == meant


@pytest.mark.parametrize("server", ["http://[::1", "http://a:b", "http://a:99999999"])
def test_an_address_that_is_none_is_refused_in_words(server: str) -> None:
    with pytest.raises(SynclineError, match="is no address"):
        Api(server)


@pytest.mark.parametrize("token", ["s\xe9cret", "two words", "two\nlines"])
def test_a_token_that_no_header_can_carry_is_refused_and_not_shown(token: str) -> None:
    with pytest.raises(SynclineError, match="the token holds spaces, or characters that are not ASCII") as refused:
        Api("http://127.0.0.1:8080", token=token)
    assert token not in str(refused.value)


@pytest.mark.parametrize(
    ("states", "meant"),
    [
        (["pending", "succeeded", "running"], "run-2"),
        (["succeeded", "stalled", "cancelled"], "run-1"),
        (["failed", "succeeded"], "run-0"),
        (["pending"], "run-0"),
    ],
)
def test_the_run_to_look_at_is_the_one_at_work_or_the_newest(states: list[str], meant: str) -> None:
    """`states` are those of the runs, newest first."""
    runs = [{"id": f"run-{n}", "state": state, "created_at": -n} for n, state in enumerate(states)]
    client = api(lambda request: httpx.Response(200, json={"runs": runs, "next_page_token": ""}))
    assert client.at_work()["id"] == meant
