"""The REST API over real Redis: which run specs are accepted, and how others are refused."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from redis.asyncio import Redis
from transformers import AutoTokenizer

from services.coordinator.rest import RestServer
from tests.integration.evaluated import HELD_OUT
from tests.integration.published import publish
from tests.integration.rest_world import says, serving, spec, start_from


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


async def test_a_run_starts_only_from_a_checkpoint_whose_every_byte_is_right(project: Path, redis: Redis) -> None:
    async with serving(project, redis) as (api, runs):
        run = runs.store.get((await api.post("/v1/runs", json=spec())).json()["id"])
        await api.post(f"/v1/runs/{run.id}:cancel")
        await says(await start_from(api, run.id), "has no published checkpoint")
        for version in (0, 4):
            publish(run.folder, project / "model", version=version, run_id=run.id, probe=[0.0] * 9)
        weights = run.folder / "checkpoints" / "v000004" / "model.safetensors"
        whole = weights.read_bytes()
        os.truncate(weights, 100)
        for which in ("", "/final", "/v4"):
            await says(await start_from(api, f"{run.id}{which}"), "v000004/model.safetensors is 100 bytes")
        weights.write_bytes(whole)
        started = await start_from(api, run.id)
        assert started.json()["spec"]["model"]["path"] == str(weights.parent.resolve())


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
