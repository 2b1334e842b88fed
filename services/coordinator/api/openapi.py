"""The OpenAPI document: every operation with its body, its answer and its errors, from the models that there are."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from services.coordinator.api import fleet_schemas, schemas
from services.coordinator.api.field_docs import field_docs
from services.coordinator.api.fleet import FleetChange
from services.coordinator.api.runs import RunChange
from syncline import algorithmspec, rewardspec, run_parts, runspec
from syncline.runspec import RunSpec

_JSON, _YAML, _PROBLEM = "application/json", "application/yaml", "application/problem+json"
_REF = "#/components/schemas/"

BODIES: dict[str, tuple[type[BaseModel], tuple[str, ...]]] = {
    "createRun": (RunSpec, (_JSON, _YAML)),
    "changeRun": (RunChange, (_JSON, _YAML)),
    "changeFleet": (FleetChange, (_JSON, _YAML)),
}
"""What each operation reads, and as what."""

ANSWERS: dict[str, type[BaseModel] | str] = {
    "createRun": schemas.RunResource,
    "listRuns": schemas.RunPage,
    "getRun": schemas.RunResource,
    "cancelRun": schemas.RunResource,
    "pauseRun": schemas.RunResource,
    "resumeRun": schemas.RunResource,
    "changeRun": schemas.RunResource,
    "deleteRun": "",
    "getSummary": schemas.Summary,
    "listSteps": schemas.StepPage,
    "listSamples": schemas.SamplePage,
    "listCheckpoints": schemas.CheckpointPage,
    "exportRollouts": "application/x-ndjson",
    "listEvaluations": schemas.EvaluationPage,
    "getEvaluation": schemas.EvaluationAnswers,
    "listEvents": schemas.EventPage,
    "getFleet": fleet_schemas.Fleet,
    "changeFleet": fleet_schemas.Fleet,
    "liveness": fleet_schemas.Health,
    "readiness": fleet_schemas.Health,
    "metrics": "text/plain",
}
"""What each operation answers: a model, a type of text, or nothing."""

_ERRORS = {
    401: "The bearer token is missing or wrong.",
    403: "A page of another site asks, or another host name was used without a token.",
    404: "There is no such run, or no such part of it.",
    409: "The request does not fit the present state, which the detail names.",
    413: "The body is too long.",
    422: "The request was refused; every problem is listed by its field's path, and nothing was changed.",
    503: "A peer does not answer at the moment; trying again is right.",
}


def document(app: FastAPI) -> dict[str, Any]:
    """The whole document, made once."""
    made = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
    models = [model for model in ANSWERS.values() if isinstance(model, type)]
    models += [schemas.ProblemDocument, *(model for model, _ in BODIES.values())]
    _, definitions = models_json_schema([(model, "validation") for model in models], ref_template=f"{_REF}{{model}}")
    for name, fields in field_docs(rewardspec, algorithmspec, run_parts, runspec, schemas, fleet_schemas).items():
        for field, said in definitions["$defs"].get(name, {}).get("properties", {}).items():
            if field in fields:
                said["description"] = fields[field]
    made["components"] = {
        "schemas": definitions["$defs"],
        "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "SYNCLINE_TOKEN, if set"}},
    }
    for path, methods in made["paths"].items():
        for method, operation in methods.items():
            _describe(path, method, operation)
    return made


def _describe(path: str, method: str, operation: dict[str, Any]) -> None:
    """Put the body, the answer and the errors into one operation."""
    name = operation["operationId"]
    if name in BODIES:
        model, types = BODIES[name]
        content = {kind: {"schema": _reference(model)} for kind in types}
        operation["requestBody"] = {"required": True, "content": content}
    success = next(status for status in operation["responses"] if status.startswith("2"))
    answer, wanted = operation["responses"][success], ANSWERS[name]
    content = dict(answer.get("content", {})) if name == "listEvents" else {}
    if isinstance(wanted, type):
        content[_JSON] = {"schema": _reference(wanted)}
    elif wanted:
        content[wanted] = {"schema": {"type": "string"}}
    answer |= {"description": "Done.", "content": content}
    operation["responses"] = {success: answer} | {
        str(status): {
            "description": _ERRORS[status],
            "content": {_PROBLEM: {"schema": _reference(schemas.ProblemDocument)}},
        }
        for status in _errors_of(path, method, name, has_parameters=bool(operation.get("parameters")))
    }
    if path.startswith("/v1"):
        operation["security"] = [{"token": []}, {}]


def _errors_of(path: str, method: str, name: str, *, has_parameters: bool) -> list[int]:
    """Statuses of the errors that an operation may answer with."""
    errors = [403] if method == "get" else [403, 409]
    if path.startswith("/v1") or path == "/metrics":
        errors.append(401)
    if "{run_id}" in path:
        errors.append(404)
    if name in BODIES:
        errors.append(413)
    if name in BODIES or has_parameters:
        errors.append(422)
    if name == "getSummary":
        errors.append(409)
    if name in ("readiness", "createRun", "changeFleet"):
        errors.append(503)
    return sorted(errors)


def _reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"{_REF}{model.__name__}"}
