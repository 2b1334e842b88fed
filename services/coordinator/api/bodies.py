"""Bounds request bodies, whether their length is told beforehand or they come in chunks."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.coordinator.api import problems

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
