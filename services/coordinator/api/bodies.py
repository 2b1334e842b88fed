"""Request bodies: bounded, whether their length is told beforehand or they come in chunks, and read strictly."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.coordinator.api import problems
from syncline.documents import from_json, from_yaml
from syncline.errors import InvalidSpec
from syncline.spec_problems import problems_of

BodyModel = TypeVar("BodyModel", bound=BaseModel)
LONGEST_BYTES = 1 << 20
_REFUSAL = f"bodies are at most {LONGEST_BYTES} bytes"


class BodyLimit:
    """ASGI middleware: 413 for a body above the limit; no more than that is ever held."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        told = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if int(told) > LONGEST_BYTES:
            await problems.problem(413, "too_large", _REFUSAL)(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > LONGEST_BYTES:
                raise HTTPException(413, _REFUSAL)
            return message

        await self._app(scope, counted, send)


async def document(request: Request) -> Any:
    """The body as a value: JSON, or YAML where the content type says so. Raises InvalidSpec.

    Any other content type is taken for JSON: it is what `curl -d` sends, and this API reads nothing else.
    """
    body = await request.body()
    if "yaml" in request.headers.get("content-type", ""):
        return from_yaml(body, where="body", aliases=False)
    return from_json(body, where="body")


def read_as(model: type[BodyModel]) -> Callable[[Request], Awaitable[BodyModel]]:
    """A dependency: the body as `model`. Raises InvalidSpec."""

    async def read(request: Request) -> BodyModel:
        try:
            return model.model_validate(await document(request))
        except ValidationError as error:
            raise InvalidSpec(problems_of(error.errors(include_url=False), model)) from None

    return read
