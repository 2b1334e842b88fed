"""The OpenAPI document says what the API does: its types are held against real answers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter
from redis.asyncio import Redis

from services.coordinator.api import openapi, schemas
from services.coordinator.app import create_app
from services.coordinator.cluster.fleet import Fleet
from services.coordinator.control.runs import Runs
from services.coordinator.records.reports import sample_rows, step_row
from services.coordinator.records.store import RunStore
from services.coordinator.settings import CoordinatorSettings
from syncline.v1.learner_service_pb2 import SampleRecord, StepReport, TaskReport
from tests.integration.evaluated import HELD_OUT, evaluate
from tests.integration.published import publish
from tests.integration.rest_world import serving, spec


@pytest.fixture
def document(tmp_path: Path, redis: Redis) -> dict[str, Any]:
    settings = CoordinatorSettings(run_root=tmp_path / "runs")
    fleet = Fleet(redis, load_deadline_s=10)
    runs = Runs(RunStore(settings.run_root), redis=redis, fleet=fleet, settings=settings)
    made: dict[str, Any] = create_app(runs_=runs, fleet_=fleet, redis=redis).openapi()
    return made


def operations(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [operation for methods in document["paths"].values() for operation in methods.values()]


def test_every_operation_has_an_id_a_typed_answer_and_our_errors(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for operation in operations(document)]
    assert sorted(names) == sorted(openapi.ANSWERS)
    for operation in operations(document):
        for status, answer in operation["responses"].items():
            kinds = answer["content"]
            if status.startswith("2"):
                assert kinds or operation["operationId"] == "deleteRun"
            else:
                assert list(kinds) == ["application/problem+json"]
    assert "HTTPValidationError" not in json.dumps(document)
    assert {"401", "403", "404", "409", "413", "422"} <= set(
        document["paths"]["/v1/runs/{run_id}"]["patch"]["responses"]
    )


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    names = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))
    assert names <= set(document["components"]["schemas"])
    assert {"RunSpec", "JudgeSpec", "RunResource", "ProblemDocument"} <= names


def test_the_fields_of_a_run_spec_carry_their_sentences_and_bounds(document: dict[str, Any]) -> None:
    fields = document["components"]["schemas"]["Sync"]["properties"]
    assert fields["period"]["description"].startswith("Updates between two syncs of the generators")
    assert document["components"]["schemas"]["GroupDPO"]["properties"]["beta"]["description"].startswith("DPO beta")
    assert document["components"]["schemas"]["RunSpec"]["properties"]["steps"]["maximum"] == 1_000_000


async def test_real_answers_fit_their_types(project: Path, redis: Redis) -> None:
    async with serving(project, redis) as (client, runs):
        created = await client.post("/v1/runs", json=spec(evaluation=[HELD_OUT]))
        run = runs.store.get(created.json()["id"])
        publish(run.folder, project / "model", version=0, run_id=run.id, probe=[0.0] * 9)
        await evaluate(run, 0, 0.5)
        task = TaskReport(task="math", groups=2, pairs=1, dropped={"all_wrong": 1}, metrics={"margin": 0.5})
        sample = SampleRecord(prompt="1+1=", completion="2", role="chosen", verdict="scored", task="math")
        report = StepReport(step=0, tasks=[task], trained=[0], metrics={"loss": 0.5}, samples=[sample])
        run.append("steps", step_row(report, sync_period=2))
        run.append("samples", *sample_rows(report))
        here = f"/v1/runs/{run.id}"
        answers = {
            "createRun": created,
            "getRun": await client.get(here),
            "listRuns": await client.get("/v1/runs"),
            "listSteps": await client.get(f"{here}/steps"),
            "listSamples": await client.get(f"{here}/samples"),
            "listCheckpoints": await client.get(f"{here}/checkpoints"),
            "listEvaluations": await client.get(f"{here}/evaluations"),
            "getEvaluation": await client.get(f"{here}/evaluations/heldout/0"),
            "listEvents": await client.get(f"{here}/events"),
            "changeRun": await client.patch(here, json={"sync": {"period": 1}}),
            "cancelRun": await client.post(f"{here}:cancel"),
            "getSummary": await client.get(f"{here}/summary"),
            "resumeRun": await client.post(f"{here}:resume"),
            "getFleet": await client.get("/v1/fleet"),
            "liveness": await client.get("/healthz"),
            "readiness": await client.get("/readyz"),
        }
        for name, answer in answers.items():
            model = openapi.ANSWERS[name]
            assert isinstance(model, type)
            assert issubclass(model, BaseModel)
            TypeAdapter(model).validate_json(answer.content)
        for refused in (await client.get("/v1/runs/none"), await client.post("/v1/runs", json={"steps": 0})):
            schemas.ProblemDocument.model_validate_json(refused.content)
