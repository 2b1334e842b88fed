"""The REST API over real Redis: submission, refusal, pages, cancellation, events."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from redis.asyncio import Redis
from transformers import AutoTokenizer

from services.coordinator.app import create_app
from services.coordinator.best import update_standings
from services.coordinator.fleet import Fleet
from services.coordinator.rest import RestServer
from services.coordinator.runs import Runs
from services.coordinator.settings import CoordinatorSettings
from services.coordinator.store import RunStore
from syncline import keys, standings
from syncline.state import RunEvent
from syncline.storage import FolderStorage
from syncline.streams import Streams
from tests.integration.evaluated import HELD_OUT, evaluate
from tests.integration.published import publish

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


@asynccontextmanager
async def serving(project: Path, redis: Redis) -> AsyncIterator[tuple[httpx.AsyncClient, Runs]]:
    """The same, with its runs at hand."""
    server = serve(project, redis)
    async with server as client:
        yield client, server.runs


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
        ({"model": {"path": "nowhere"}}, "model.path", "is not a folder"),
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
        ({"data": "model"}, "tasks.0.data", "is a folder"),
        ({"data": "long.jsonl"}, "tasks.0.data", "every prompt is too long: the shortest has"),
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
    (project / "long.jsonl").write_text(json.dumps({"prompt": "1+" * 3000, "answer": "2"}))
    good = spec()["tasks"][0]
    refused = await api.post("/v1/runs", json=spec(tasks=[good | task]))
    await _assert_refused(api, refused, path, says)


async def test_a_run_spec_is_json_whatever_its_content_type_says_or_yaml(api: httpx.AsyncClient) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}  # what `curl -d` sends
    as_json = await api.post("/v1/runs", content=json.dumps(spec()), headers=form | {"Idempotency-Key": "once"})
    text = yaml.safe_dump(spec(), sort_keys=False)
    headers = {"Content-Type": "application/yaml", "Idempotency-Key": "once"}
    as_yaml = await api.post("/v1/runs", content=text, headers=headers)
    assert (as_json.status_code, as_yaml.status_code) == (202, 202), as_yaml.text
    assert as_yaml.json()["id"] == as_json.json()["id"], "the same run spec"
    changed = await api.patch(f"/v1/runs/{as_json.json()['id']}", content='{"sync": {"period": 1}}', headers=form)
    assert changed.status_code == 200


@pytest.mark.parametrize(
    ("body", "kind", "path", "says"),
    [
        ('{"name": "a",\n "steps": }', "application/json", "body", "is not JSON: Expecting value at line 2, column 11"),
        ('{"steps": 4, "steps": 5}', "application/json", "body", "has the key 'steps' twice"),
        ('{"steps": NaN}', "text/plain", "body", "has NaN, which is not a JSON number"),
        ("[" * 100_000, "application/json", "body", "is nested too deeply"),
        ("\xff", "application/json", "body", "is not JSON"),
        ("a: [1", "application/yaml", "body", "line 1"),
        ("steps: 4\nsteps: 5", "application/yaml", "body", "'steps' appears twice"),
        ("a: &a [x]\nb: [*a, *a]", "application/yaml", "body", "aliases are not read here"),
        ("5", "application/json", "$", "the document is a int"),
    ],
)
async def test_a_body_that_cannot_be_read_is_refused_with_the_place(
    api: httpx.AsyncClient, body: str, kind: str, path: str, says: str
) -> None:
    refused = await api.post("/v1/runs", content=body, headers={"Content-Type": kind})
    assert refused.status_code == 422, refused.text
    (error,) = refused.json()["errors"]
    assert error["path"] == path
    assert says in error["problem"]


@pytest.mark.parametrize("replicas", [True, "2", 1.5, None])
async def test_a_number_of_generators_is_a_number(api: httpx.AsyncClient, replicas: object) -> None:
    refused = await api.patch("/v1/fleet", json={"replicas": replicas})
    assert refused.status_code == 422
    (error,) = refused.json()["errors"]
    assert (error["path"], error["allowed"]) == ("replicas", "an integer")


async def test_a_file_of_several_versions_is_accepted_with_a_warning(api: httpx.AsyncClient, project: Path) -> None:
    ids = AutoTokenizer.from_pretrained(project / "model")
    sample = {"text": "46", "token_ids": ids("46", add_special_tokens=False)["input_ids"], "reward": 1.0}
    sample["log_probs"] = [-1.0] * len(sample["token_ids"])
    row = {"prompt": "12+34=", "prompt_token_ids": ids("12+34=")["input_ids"], "task": "math", "samples": [sample] * 2}
    rows = [row | {"version": version} for version in (0, 5, 10)]
    (project / "rollouts.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    offline = spec(sync={"period": "never"}, rollouts={"from": "rollouts.jsonl"}, prompts_per_step=2)
    created = await api.post("/v1/runs", json=offline)
    assert created.status_code == 202, created.text
    (warning,) = created.json()["warnings"]
    assert warning["path"] == "rollouts.from"
    assert "has rollouts of 3 versions, 0 to 10: they are not of one fixed policy" in warning["problem"]


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


async def test_a_run_that_waits_for_its_turn_says_for_which(project: Path, redis: Redis) -> None:
    async with serving(project, redis) as (client, runs):
        first, second = [(await client.post("/v1/runs", json=spec())).json()["id"] for _ in range(2)]
        runs.store.get(first).apply(RunEvent.START)
        assert (await client.get(f"/v1/runs/{first}")).json()["reason"] == ""
        assert (await client.get(f"/v1/runs/{second}")).json()["reason"] == f"waits for {first} (starting)"
        (queued,) = [event["data"] for event in runs.store.get(second).series["events"] if event["type"] == "queued"]
        assert queued == {"behind": first}
        runs.cancel(first)
        assert (await client.get(f"/v1/runs/{second}")).json()["reason"] == ""


async def test_work_that_a_run_left_open_is_closed_before_another_one_starts(project: Path, redis: Redis) -> None:
    # Given a run that was cancelled while Redis did not answer
    async with serving(project, redis) as (client, runs):
        run = (await client.post("/v1/runs", json=spec())).json()
        await client.post(f"/v1/runs/{run['id']}:cancel")
        await Streams(redis).open_run(run["id"])
        # When the coordinator looks for the next one
        driving = asyncio.create_task(runs.run())
        async with asyncio.timeout(10):
            while await Streams(redis).open_runs():
                await asyncio.sleep(0.01)
        driving.cancel()
        await asyncio.gather(driving, return_exceptions=True)


async def test_a_run_that_is_over_can_be_deleted_and_no_other(project: Path, redis: Redis) -> None:
    async with serving(project, redis) as (client, runs):
        run = (await client.post("/v1/runs", json=spec())).json()
        publish(Path(run["folder"]), project / "model", version=0, run_id=run["id"], probe=[0.0] * 9)
        refused = await client.delete(f"/v1/runs/{run['id']}")
        assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
        await client.post(f"/v1/runs/{run['id']}:cancel")
        heir = (await client.post("/v1/runs", json=spec(model={"path": f"run://{run['id']}/final"}))).json()
        refused = await client.delete(f"/v1/runs/{run['id']}")
        assert f"run {heir['id']} is pending and starts from a checkpoint" in refused.json()["detail"]
        await client.post(f"/v1/runs/{heir['id']}:cancel")
        assert (await client.delete(f"/v1/runs/{run['id']}")).status_code == 204
        assert not Path(run["folder"]).exists()
        assert (await client.get(f"/v1/runs/{run['id']}")).status_code == 404
        assert (await client.delete(f"/v1/runs/{run['id']}")).status_code == 404
        assert [one.id for one in RunStore(project / "runs").all()] == [heir["id"]]
        assert runs.store.get(heir["id"]).state.value == "cancelled"


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


async def test_a_period_that_does_not_fit_a_waiting_run_is_refused_and_a_new_coordinator_reads_the_record(
    project: Path, redis: Redis
) -> None:
    async with serving(project, redis) as (api, runs):
        path = f"/v1/runs/{(await api.post('/v1/runs', json=spec())).json()['id']}"
        refused = await api.patch(path, json={"sync": {"period": 1000}})
        assert refused.status_code == 422
        (error,) = refused.json()["errors"]
        assert error["path"] == "sync.period"
        assert error["problem"].startswith("1000 is more than the run's 4 steps")
        for period in (3, "never", 1):  # the last word holds
            assert (await api.patch(path, json={"sync": {"period": period}})).status_code == 200
        sync = (await api.get(path)).json()["spec"]["sync"]
        assert sync["changes"] == [{"step": 0, "period": 1}]
        (again,) = RunStore(runs.store.root).all()
        assert again.spec.sync.model_dump(mode="json") == sync


async def test_changing_a_resumed_run_that_waits_keeps_the_schedule_that_it_was_trained_on(
    project: Path, redis: Redis
) -> None:
    async with serving(project, redis) as (api, runs):
        created = await api.post("/v1/runs", json=spec(steps=60, sync={"period": 10}))
        run = runs.store.get(created.json()["id"])
        path = f"/v1/runs/{run.id}"
        # Given a run that was changed at step 10, cancelled after step 33 and resumed
        run.change_period(run.spec.with_period(10, 2))
        run.record.step = 34
        await api.post(f"{path}:cancel")
        await api.post(f"{path}:resume")
        before = run.spec.schedule()
        assert (await api.patch(path, json={"sync": {"period": 5}})).status_code == 200
        after = run.spec.schedule()
        assert [after.version_for_step(step) for step in range(34)] == [before.version_for_step(s) for s in range(34)]
        assert [after.period_at(step) for step in (0, 10, 33, 34)] == [10, 2, 2, 5]
        events = (await api.get(f"{path}/events")).json()["events"]
        told = [event["data"] for event in events if event["type"] == "period"]
        assert told == [{"from_step": 10, "period": 2}, {"from_step": 34, "period": 5}]


async def test_a_change_that_no_window_is_left_for_is_refused(project: Path, redis: Redis) -> None:
    async with serving(project, redis) as (api, runs):
        created = await api.post("/v1/runs", json=spec(steps=60, sync={"period": 50}))
        run = runs.store.get(created.json()["id"])
        run.record.step = 51
        refused = await api.patch(f"/v1/runs/{run.id}", json={"sync": {"period": 5}})
        assert refused.status_code == 409
        assert "would begin at step 100, and the run ends after 60" in refused.json()["detail"]
        assert run.spec.sync.changes == ()


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


async def test_a_body_above_the_limit_is_refused_also_when_it_comes_in_chunks(api: httpx.AsyncClient) -> None:
    sent = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 64:
            sent += 1
            yield b" " * (1 << 18)

    for body in (b" " * ((1 << 20) + 1), chunks()):
        refused = await api.post("/v1/runs", content=body, headers={"Content-Type": "application/json"})
        assert (refused.status_code, refused.json()["code"]) == (413, "too_large")
    assert sent < 64, "it stopped listening"
    fits = json.dumps(spec()).encode() + b" " * 100_000

    async def in_two() -> AsyncIterator[bytes]:
        yield fits[:100]
        yield fits[100:]

    headers = {"Content-Type": "application/json"}
    assert (await api.post("/v1/runs", content=in_two(), headers=headers)).status_code == 202


# ---- evaluations and the best checkpoint


async def test_the_best_checkpoint_is_marked_and_can_be_started_from(project: Path, redis: Redis) -> None:
    async with serving(project, redis) as (api, runs):
        run = runs.store.get((await api.post("/v1/runs", json=spec(evaluation=[HELD_OUT]))).json()["id"])
        await _says(await _start_from(api, f"{run.id}/best"), "is pending, so its best checkpoint is not known")
        run.apply(RunEvent.START)
        for version in (0, 2, 4):
            publish(run.folder, project / "model", version=version, run_id=run.id, probe=[0.0] * 9)
        for which in ("best", "final"):
            refused = await _start_from(api, f"{run.id}/{which}")
            await _says(refused, f"is starting, so its {which} checkpoint is not known; it has v0, v2, v4")
        for version, accuracy in ((0, 0.25), (2, 0.75), (4, 0.5)):
            await evaluate(run, version, accuracy)
        folder = str(run.folder.resolve() / "checkpoints" / "v000002")
        best = {"version": 2, "evaluation": "heldout", "metric": "score", "value": 0.75, "folder": folder}
        assert (await api.get(f"/v1/runs/{run.id}")).json()["best"] == best
        rows = (await api.get(f"/v1/runs/{run.id}/checkpoints")).json()["checkpoints"]
        assert [(row["version"], row["best"], row["kept"]) for row in rows] == [
            (0, False, True),
            (2, True, True),
            (4, False, False),
        ]
        await api.post(f"/v1/runs/{run.id}:cancel")
        assert (await _start_from(api, f"{run.id}/best")).json()["spec"]["model"]["path"] == folder
        events = (await api.get(f"/v1/runs/{run.id}/events")).json()["events"]
        assert [event["data"]["version"] for event in events if event["type"] == "best"] == [0, 2]
        summary = json.loads((run.folder / "summary.json").read_text())
        assert summary["best"] == best
        assert summary["evaluation"]["before"]["heldout"]["score"]["mean"] == 0.25
        assert summary["evaluation"]["after"]["heldout"]["score"] == {"mean": 0.5, "low": 0.5, "high": 0.5}

        # and what was answered can be read, page by page
        path = f"/v1/runs/{run.id}/evaluations/heldout/2"
        first = (await api.get(path, params={"page_size": 2})).json()
        assert first["evaluation"]["score"]["mean"] == 0.75
        assert [one["prompt_index"] for one in first["answers"]] == [0, 1]
        assert first["answers"][0]["samples"][0]["completion"] == "46"
        rest = (await api.get(path, params={"page_size": 2, "page_token": first["next_page_token"]})).json()
        assert ([one["prompt_index"] for one in rest["answers"]], rest["next_page_token"]) == ([2], "")
        for missing in ("heldout/3", "other/2"):
            answer = await api.get(f"/v1/runs/{run.id}/evaluations/{missing}")
            assert answer.status_code == 404
            assert "it has: heldout/0, heldout/2, heldout/4" in answer.json()["detail"]


async def test_a_run_starts_only_from_a_checkpoint_whose_every_byte_is_right(project: Path, redis: Redis) -> None:
    async with serving(project, redis) as (api, runs):
        run = runs.store.get((await api.post("/v1/runs", json=spec())).json()["id"])
        await api.post(f"/v1/runs/{run.id}:cancel")
        await _says(await _start_from(api, run.id), "has no published checkpoint")
        for version in (0, 4):
            publish(run.folder, project / "model", version=version, run_id=run.id, probe=[0.0] * 9)
        weights = run.folder / "checkpoints" / "v000004" / "model.safetensors"
        whole = weights.read_bytes()
        os.truncate(weights, 100)
        for which in ("", "/final", "/v4"):
            await _says(await _start_from(api, f"{run.id}{which}"), "v000004/model.safetensors is 100 bytes")
        weights.write_bytes(whole)
        started = await _start_from(api, run.id)
        assert started.json()["spec"]["model"]["path"] == str(weights.parent.resolve())


async def _start_from(api: httpx.AsyncClient, checkpoint: str) -> httpx.Response:
    return await api.post("/v1/runs", json=spec(model={"path": f"run://{checkpoint}"}))


async def test_a_run_that_goes_back_forgets_what_it_will_evaluate_anew(project: Path, redis: Redis) -> None:
    async with serving(project, redis) as (api, runs):
        run = runs.store.get((await api.post("/v1/runs", json=spec(evaluation=[HELD_OUT]))).json()["id"])
        for version, accuracy in ((0, 0.25), (2, 0.5), (4, 0.75)):
            publish(run.folder, project / "model", version=version, run_id=run.id, probe=[0.0] * 9)
            await evaluate(run, version, accuracy)
        assert (await api.get(f"/v1/runs/{run.id}")).json()["best"]["version"] == 4
        # When an attempt goes on from step 3, and what was published beyond it is deleted
        shutil.rmtree(run.folder / "checkpoints" / "v000004")
        run.rewind(3)
        await update_standings(run)
        assert (await api.get(f"/v1/runs/{run.id}")).json()["best"]["version"] == 2
        assert standings.read(FolderStorage(run.folder)).of("heldout") == {0, 2}


async def _says(refused: httpx.Response, problem: str) -> None:
    assert refused.status_code == 422
    assert problem in refused.json()["errors"][0]["problem"]


# ---- endpoints of judges and reward models


class Models:
    """A real server that lists the models of an OpenAI-compatible one, or fails."""

    def __init__(self, *models: str, status: int = 200) -> None:
        app = FastAPI()
        self.asked = 0

        @app.get("/v1/models")
        async def list_models() -> JSONResponse:
            self.asked += 1
            return JSONResponse({"data": [{"id": model} for model in models]}, status_code=status)

        self._server = RestServer(app, host="127.0.0.1", port=0)

    async def __aenter__(self) -> Models:
        await self._server.start()
        self.url = f"{self._server.address}/v1"
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._server.stop(1.0)


async def test_an_endpoint_that_does_not_answer_is_a_warning_and_no_refusal(project: Path, redis: Redis) -> None:
    async with serving(project, redis) as (api, runs), Models("judge-7b") as up, Models(status=503) as failing:
        gone = "http://127.0.0.1:9/v1"

        def task(name: str, endpoint: str, model: str) -> dict[str, Any]:
            reward = {"type": "judge", "endpoint": endpoint, "model": model}
            return {"name": name, "data": "train.jsonl", "reward": reward}

        tasks = [
            task("good", up.url, "judge-7b"),
            task("gone", gone, "judge-7b"),
            task("other", up.url, "judge-70b"),
            task("failing", failing.url, "judge-7b"),
        ]
        evaluation = [HELD_OUT | {"reward": {"type": "reward_model", "endpoint": gone, "model": "rm"}}]
        created = await api.post("/v1/runs", json=spec(tasks=tasks, evaluation=evaluation))
        assert created.status_code == 202, created.text
        warnings = created.json()["warnings"]
        assert [(one["path"], one["problem"]) for one in warnings] == [
            ("rewards", "were not checked: no reward service answers"),
            ("tasks.1.reward.endpoint", f"GET {gone}/models failed: All connection attempts failed"),
            ("tasks.2.reward.model", f"{up.url} serves judge-7b, and no 'judge-70b'"),
            ("tasks.3.reward.endpoint", f"GET {failing.url}/models answered 503 Service Unavailable"),
            ("evaluation.0.reward.endpoint", f"GET {gone}/models failed: All connection attempts failed"),
        ]
        assert up.asked == 2, "once for each model that is named"
        path = f"/v1/runs/{created.json()['id']}"
        assert (await api.get(path)).json()["warnings"] == warnings
        events = (await api.get(f"{path}/events")).json()["events"]
        assert [event["data"] for event in events if event["type"] == "warning"] == warnings
        assert runs.store.get(created.json()["id"]).state.value == "pending"


async def test_while_no_reward_service_is_live_the_warnings_say_so_beside_those_of_the_spec(
    api: httpx.AsyncClient,
) -> None:
    (warning,) = (await api.post("/v1/runs", json=spec())).json()["warnings"]
    assert (warning["path"], warning["problem"]) == ("rewards", "were not checked: no reward service answers")
    warnings = (await api.post("/v1/runs", json=spec(algorithm={"name": "grpo"}))).json()["warnings"]
    assert {one["path"] for one in warnings} == {"rewards", "algorithm.importance_cap"}


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
