"""The REST API over real Redis: problems, events, tokens, health, metrics and the fleet."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from syncline import keys
from tests.integration.rest_world import serve, spec


@pytest.mark.parametrize("replicas", [True, "2", 1.5, None])
async def test_a_number_of_generators_is_a_number(api: httpx.AsyncClient, replicas: object) -> None:
    refused = await api.patch("/v1/fleet", json={"replicas": replicas})
    assert refused.status_code == 422
    (error,) = refused.json()["errors"]
    assert (error["path"], error["allowed"]) == ("replicas", "an integer")


async def test_what_does_not_exist_is_a_problem_document(api: httpx.AsyncClient) -> None:
    for response in (
        await api.get("/v1/runs/nothing"),
        await api.post("/v1/runs/nothing:cancel"),
        await api.get("/v1/nothing"),
    ):
        assert response.status_code == 404
        assert response.headers["content-type"] == "application/problem+json"


async def test_the_event_stream_starts_with_a_snapshot_and_resumes_after_the_last_event(api: httpx.AsyncClient) -> None:
    run = (await api.post("/v1/runs", json=spec())).json()
    await api.post(f"/v1/runs/{run['id']}:cancel")
    whole = await _events(api, run["id"])
    assert [event["event"] for event in whole] == ["snapshot", "state", "warning", "state"]
    assert whole[-1]["data"]["state"] == "cancelled"
    rest = await _events(api, run["id"], last_event_id=whole[2]["id"])
    assert [event.get("id") for event in rest] == [None, whole[3]["id"]]


async def _events(api: httpx.AsyncClient, run_id: str, *, last_event_id: str = "") -> list[dict[str, Any]]:
    headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last_event_id} if last_event_id else {})
    async with asyncio.timeout(10):
        text = (await api.get(f"/v1/runs/{run_id}/events", headers=headers)).text
    events: list[dict[str, Any]] = []
    for block in text.replace("\r\n", "\n").strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":"))
        events.append(fields | {"data": json.loads(fields["data"])})
    return events


async def test_without_asking_for_a_stream_the_events_come_as_pages(api: httpx.AsyncClient) -> None:
    run = (await api.post("/v1/runs", json=spec())).json()
    for _ in range(2):
        await api.post(f"/v1/runs/{run['id']}:cancel")
        await api.post(f"/v1/runs/{run['id']}:resume")
    first = (await api.get(f"/v1/runs/{run['id']}/events", params={"page_size": 4})).json()
    assert [event["id"] for event in first["events"]] == [1, 2, 3, 4]
    assert [event["data"].get("state") for event in first["events"]] == ["pending", None, "cancelled", "pending"]
    assert first["events"][1]["data"]["path"] == "rewards", "nobody is there to check them"
    rest = await api.get(f"/v1/runs/{run['id']}/events", params={"page_token": first["next_page_token"]})
    assert [event["id"] for event in rest.json()["events"]] == [5, 6]
    assert rest.json()["next_page_token"] == ""
    # a client that asks again later asks for what came since
    assert (await api.get(f"/v1/runs/{run['id']}/events", params={"after": 6})).json()["events"] == []
    await api.post(f"/v1/runs/{run['id']}:cancel")
    news = (await api.get(f"/v1/runs/{run['id']}/events", params={"after": 6})).json()["events"]
    assert [(event["id"], event["type"], event["data"]["state"]) for event in news] == [(7, "state", "cancelled")]


async def test_with_a_token_everything_but_health_asks_for_it(project: Path, redis: Redis) -> None:
    async with serve(project, redis, token="secret") as api:
        assert (await api.get("/healthz")).status_code == 200
        assert (await api.get("/readyz")).status_code == 200
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            refused = await api.get("/v1/runs", headers=headers)
            assert refused.status_code == 401
            assert refused.headers["www-authenticate"] == "Bearer"
        assert (await api.get("/v1/runs", headers={"Authorization": "Bearer secret"})).status_code == 200


async def test_without_a_token_only_loopback_names_are_answered(api: httpx.AsyncClient) -> None:
    refused = await api.get("/v1/runs", headers={"Host": "attacker.example"})
    assert (refused.status_code, refused.json()["code"]) == (403, "foreign_host")
    for name in ("localhost:8080", "[::1]:8080", "127.0.0.1"):
        assert (await api.get("/v1/runs", headers={"Host": name})).status_code == 200


async def test_a_page_of_another_address_cannot_act_from_an_old_browser_either(api: httpx.AsyncClient) -> None:
    run = (await api.post("/v1/runs", json=spec())).json()
    for origin, status in (("https://evil.example", 403), ("null", 403), ("http://127.0.0.1", 200)):
        answer = await api.post(f"/v1/runs/{run['id']}:cancel", headers={"Origin": origin})
        assert answer.status_code == status, origin
    assert (await api.get("/v1/runs", headers={"Origin": "https://evil.example"})).status_code == 200


async def test_readiness_tells_when_redis_is_gone(project: Path) -> None:
    from syncline import redis_client

    nowhere = redis_client.connect(f"unix://{project}/no.sock")
    async with serve(project, nowhere) as api:
        answer = await api.get("/readyz")
        assert answer.status_code == 503
        assert "Redis does not answer" in answer.json()["detail"]
    await nowhere.aclose()


async def test_metrics_and_the_fleet_are_served(api: httpx.AsyncClient, redis: Redis) -> None:
    shown = (await api.get("/metrics")).text
    assert "syncline_steps_total" in shown
    assert 'syncline_redis_memory_bytes{kind="used"}' in shown
    fleet = (await api.get("/v1/fleet")).json()
    assert fleet == {
        "wanted": None,
        "replicas": None,
        "pods": [],
        "pods_trouble": "",
        "pods_missing": "",
        "inference": [],
        "reward": [],
        "learner": [],
    }
    assert await redis.keys(f"{keys.PREFIX}:*") == []


async def test_generators_that_somebody_started_by_hand_are_not_scaled(api: httpx.AsyncClient) -> None:
    refused = await api.patch("/v1/fleet", json={"replicas": 2})
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    assert "start or stop them where they run" in refused.json()["detail"]


@pytest.mark.parametrize("body", [{}, {"replicas": -1}, {"replicas": "many"}, {"replicas": 1, "generators": 2}])
async def test_a_change_of_the_fleet_that_means_nothing_is_refused(api: httpx.AsyncClient, body: Any) -> None:
    assert (await api.patch("/v1/fleet", json=body)).status_code == 422
