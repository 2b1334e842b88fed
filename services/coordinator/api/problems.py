"""Every error as application/problem+json (RFC 9457), from the one table in syncline.errors."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from syncline.errors import InvalidSpec, SynclineError
from syncline.spec_problems import problems_of

log = structlog.get_logger()
_MEDIA_TYPE = "application/problem+json"


def problem(status: int, code: str, detail: str, *, errors: list[dict[str, str]] | None = None) -> JSONResponse:
    body: dict[str, Any] = {
        "type": f"urn:syncline:{code}",
        "title": code.replace("_", " "),
        "status": status,
        "code": code,
        "detail": detail,
    }
    if errors:
        body["errors"] = errors
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    return JSONResponse(body, status_code=status, media_type=_MEDIA_TYPE, headers=headers)


def install(app: FastAPI) -> None:
    """Map every exception of the API to a problem document."""

    @app.exception_handler(SynclineError)
    async def on_syncline_error(request: Request, error: SynclineError) -> JSONResponse:
        if isinstance(error, InvalidSpec):
            fields = [{"path": p.path, "problem": p.problem, "allowed": p.allowed} for p in error.problems]
            return problem(error.http_status, error.code, "the request was refused; nothing was changed", errors=fields)
        return problem(error.http_status, error.code, error.message)

    @app.exception_handler(RequestValidationError)
    async def on_bad_request(request: Request, error: RequestValidationError) -> JSONResponse:
        details = [{**detail, "loc": detail["loc"][1:]} for detail in error.errors()]  # users never wrote "query"
        fields = [asdict(found) for found in problems_of(details)]
        return problem(422, "invalid_request", "the request was refused; nothing was changed", errors=fields)

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> JSONResponse:
        codes = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}
        return problem(error.status_code, codes.get(error.status_code, "http_error"), str(error.detail))

    @app.exception_handler(Exception)
    async def on_any_error(request: Request, error: Exception) -> JSONResponse:
        log.error("request_failed", method=request.method, path=request.url.path, exc_info=error)
        return problem(500, "internal", "the coordinator failed on this request; see its log")
