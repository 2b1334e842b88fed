"""The REST API over real Redis: submission, refusal, pages, cancellation, events."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from services.coordinator.app import create_app
from services.coordinator.fleet import Fleet
from services.coordinator.runs import Runs
from services.coordinator.settings import CoordinatorSettings
from services.coordinator.store import RunStore
from syncline import keys

SEED_MODEL = Path("services/local/quickstart/seed-model")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a model and a prompt file."""
    shutil.copytree(SEED_MODEL, tmp_path / "model")
    (tmp_path / "train.jsonl").write_text('{"prompt": "12+34=", "answer": "46"}\n' * 3)
    return tmp_path


def spec(**changes: Any) -> dict[str, Any]:
    return {
        "name": "small",
        "model": {"path": "model"},
        "algorithm": {"name": "dpo"},
        "sync": {"period": 2},
        "steps": 4,
        "generation": {"max_tokens": 5},
        "tasks": [{"name": "math", "data": "train.jsonl", "reward": {"type": "math"}}],
        **changes,
    }


@pytest.fixture
async def api(project: Path, redis: Redis) -> AsyncIterator[httpx.AsyncClient]:
    async with serve(project, redis) as client:
        yield client


class serve:
    """A coordinator without its workers, so that what is submitted stays pending."""

    def __init__(self, project: Path, redis: Redis, *, token: str = "") -> None:
        settings = CoordinatorSettings(run_root=project / "runs", model_root=project, data_root=project)
        fleet = Fleet(redis, load_deadline_s=10)
        self.runs = Runs(RunStore(settings.run_root), redis=redis, fleet=fleet, settings=settings)
        app = create_app(runs_=self.runs, fleet_=fleet, redis=redis, token=token)
        self._client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1")

    async def __aenter__(self) -> httpx.AsyncClient:
        return await self._client.__aenter__()

    async def __aexit__(self, *error: object) -> None:
        await self._client.aclose()


async def test_a_good_spec_is_accepted_and_can_be_read_back(api: httpx.AsyncClient, project: Path) -> None:
    created = await api.post("/v1/runs", json=spec())
    assert created.status_code == 202, created.text
    run = created.json()
    assert created.headers["location"] == f"/v1/runs/{run['id']}"
    assert run["state"] == "pending"
    assert (await api.get(created.headers["location"])).json() == run
    assert run["spec"]["tasks"][0]["data"] == str(project / "train.jsonl"), "paths are resolved once"
    assert json.loads((project / "runs" / run["id"] / "run.json").read_text())["id"] == run["id"]


@pytest.mark.parametrize(
    ("changes", "path", "says"),
    [
        ({"colour": "blue"}, "colour", "unknown key"),
        ({"steps": "ten"}, "steps", "'ten'"),
        ({"sync": {"period": 0}}, "sync.period", "out of range"),
        ({"model": {"path": "nowhere"}}, "model.path", "is no folder"),
        ({"model": {"path": "empty"}}, "model.path", "has no config.json"),
        ({"model": {"path": "../../etc"}}, "model.path", "outside the configured root"),
        ({"generation": {"max_tokens": 100_000}}, "generation.max_tokens", "do not fit the model's context"),
    ],
)
async def test_a_bad_spec_is_refused_with_the_fields_path(
    api: httpx.AsyncClient, project: Path, changes: dict[str, Any], path: str, says: str
) -> None:
    (project / "empty").mkdir()
    refused = await api.post("/v1/runs", json=spec(**changes))
    await _assert_refused(api, refused, path, says)


@pytest.mark.parametrize(
    ("task", "path", "says"),
    [
        ({"data": "missing.jsonl"}, "tasks.0.data", "does not exist"),
        ({"data": "empty.jsonl"}, "tasks.0.data", "holds no rows"),
        ({"data": "no-prompt.jsonl"}, "tasks.0.data", "has no `prompt`"),
        ({"data": "no-answer.jsonl"}, "tasks.0.data", "has no `answer`"),
        ({"data": "messages.jsonl"}, "tasks.0.data", "no chat template"),
        ({"max_tokens": 100_000}, "tasks.0.max_tokens", "do not fit the model's context"),
        ({"data": "/etc/passwd"}, "tasks.0.data", "outside the configured root"),
    ],
)
async def test_a_bad_task_is_refused_with_the_fields_path(
    api: httpx.AsyncClient, project: Path, task: dict[str, Any], path: str, says: str
) -> None:
    (project / "empty.jsonl").write_text("\n")
    (project / "no-prompt.jsonl").write_text('{"answer": "2"}\n')
    (project / "no-answer.jsonl").write_text('{"prompt": "1+1="}\n')
    (project / "messages.jsonl").write_text('{"prompt": [{"role": "user", "content": "1+1="}], "answer": "2"}\n')
    good = spec()["tasks"][0]
    refused = await api.post("/v1/runs", json=spec(tasks=[good | task]))
    await _assert_refused(api, refused, path, says)


async def test_two_tasks_of_one_name_are_refused(api: httpx.AsyncClient) -> None:
    refused = await api.post("/v1/runs", json=spec(tasks=spec()["tasks"] * 2))
    await _assert_refused(api, refused, "tasks.1.name", "is used twice")


async def _assert_refused(api: httpx.AsyncClient, refused: httpx.Response, path: str, says: str) -> None:
    assert refused.status_code == 422
    assert refused.headers["content-type"] == "application/problem+json"
    problem = refused.json()
    assert problem["code"] == "invalid_spec"
    (error,) = problem["errors"]
    assert error["path"] == path
    assert says in error["problem"]
    assert error["allowed"]
    assert (await api.get("/v1/runs")).json()["runs"] == [], "nothing was started"


async def test_an_idempotency_key_answers_the_same_run_and_refuses_another_body(api: httpx.AsyncClient) -> None:
    headers = {"Idempotency-Key": "once"}
    first = await api.post("/v1/runs", json=spec(), headers=headers)
    again = await api.post("/v1/runs", json=spec(), headers=headers)
    assert again.json()["id"] == first.json()["id"]
    assert (await api.post("/v1/runs", json=spec(steps=5), headers=headers)).status_code == 409
    assert len((await api.get("/v1/runs")).json()["runs"]) == 1


async def test_pages_lead_through_all_runs_newest_first(api: httpx.AsyncClient) -> None:
    created = [(await api.post("/v1/runs", json=spec())).json()["id"] for _ in range(5)]
    seen: list[str] = []
    token = ""
    while True:
        answer = (await api.get("/v1/runs", params={"page_size": 2, "page_token": token})).json()
        seen += [run["id"] for run in answer["runs"]]
        if not (token := answer["next_page_token"]):
            break
    assert seen == created[::-1]
    assert (await api.get("/v1/runs", params={"page_token": "nonsense"})).status_code == 422


async def test_a_pending_run_can_be_cancelled_once_and_for_all(api: httpx.AsyncClient) -> None:
    run = (await api.post("/v1/runs", json=spec())).json()
    for _ in range(2):
        cancelled = await api.post(f"/v1/runs/{run['id']}:cancel")
        assert (cancelled.status_code, cancelled.json()["state"]) == (200, "cancelled")
    summary = json.loads(Path(run["summary_path"]).read_text())
    assert (summary["state"], summary["steps"]) == ("cancelled", 0)


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
    assert [event["event"] for event in whole] == ["snapshot", "state", "state"]
    assert whole[-1]["data"]["state"] == "cancelled"
    rest = await _events(api, run["id"], last_event_id=whole[1]["id"])
    assert [event.get("id") for event in rest] == [None, whole[2]["id"]]


async def _events(api: httpx.AsyncClient, run_id: str, *, last_event_id: str = "") -> list[dict[str, Any]]:
    headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
    async with asyncio.timeout(10):
        text = (await api.get(f"/v1/runs/{run_id}/events", headers=headers)).text
    events: list[dict[str, Any]] = []
    for block in text.replace("\r\n", "\n").strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":"))
        events.append(fields | {"data": json.loads(fields["data"])})
    return events


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


async def test_readiness_tells_when_redis_is_gone(project: Path) -> None:
    from syncline import streams

    nowhere = streams.connect(f"unix://{project}/no.sock")
    async with serve(project, nowhere) as api:
        answer = await api.get("/readyz")
        assert answer.status_code == 503
        assert "Redis does not answer" in answer.json()["detail"]
    await nowhere.aclose()


async def test_metrics_and_the_fleet_are_served(api: httpx.AsyncClient, redis: Redis) -> None:
    assert "syncline_steps_total" in (await api.get("/metrics")).text
    fleet = (await api.get("/v1/fleet")).json()
    assert fleet == {"wanted": None, "inference": [], "reward": [], "learner": []}
    assert await redis.keys(f"{keys.PREFIX}:*") == []
