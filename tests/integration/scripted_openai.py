"""An OpenAI-compatible server on loopback that does what a test tells it: also what no honest server does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Request:
    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def question(self) -> str:
        """What the judge is asked."""
        return str(self.body["messages"][-1]["content"])


Script = Callable[[Request], bytes | Awaitable[bytes]]
"""What the server sends for a request, head and all; then it closes the connection."""


def answer(status: int, body: Any, **headers: str) -> bytes:
    """A whole response; text goes out as it is."""
    content = (body if isinstance(body, str) else json.dumps(body)).encode()
    lines = [f"HTTP/1.1 {status} X", f"content-length: {len(content)}", "connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


def says(text: str, *, finished: str = "stop", refusal: str | None = None) -> bytes:
    """An ordinary chat completion."""
    message = {"role": "assistant", "content": text, "refusal": refusal}
    return answer(200, {"choices": [{"index": 0, "message": message, "finish_reason": finished}]})


def error(status: int, message: str, **headers: str) -> bytes:
    return answer(status, {"error": {"message": message, "code": status}}, **headers)


@dataclass
class ScriptedServer:
    script: Script
    requests: list[Request] = field(default_factory=list)
    most_at_once: int = 0
    address: str = ""
    _at_once: int = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
            body = json.loads(await reader.readexactly(int(headers["content-length"])))
            request = Request(head[0].split()[1], headers, body)
            self.requests.append(request)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            try:
                reply = self.script(request)
                writer.write(reply if isinstance(reply, bytes) else await reply)
                await writer.drain()
            finally:
                self._at_once -= 1
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client gave up, or the test is over
        finally:
            writer.close()


@asynccontextmanager
async def scripted(script: Script) -> AsyncIterator[ScriptedServer]:
    """Serve until the block ends."""
    served = ScriptedServer(script)
    server = await asyncio.start_server(served.handle, "127.0.0.1", 0)
    served.address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield served
    finally:
        server.close()
