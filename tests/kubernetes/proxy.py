"""A TCP proxy that stands between a client and a server, and can be told to fail."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Literal

Mood = Literal["pass", "refuse", "silent"]


class Proxy:
    """`async with Proxy("127.0.0.1", 6443) as proxy:` listens on a free port of the loopback."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._mood: Mood = "pass"
        self._open: set[asyncio.StreamWriter] = set()
        self.connections = 0
        """Connections that were let through since the start."""

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()
        self.drop()

    def drop(self) -> None:
        """Break every connection off."""
        for writer in list(self._open):
            writer.transport.abort()

    def be(self, mood: Mood) -> None:
        """pass: as if it were not there. refuse: the server is away. silent: it listens and never answers."""
        self._mood = mood
        if mood == "refuse":
            self.drop()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._mood == "refuse":
            writer.transport.abort()
            return
        self.connections += 1
        self._open.add(writer)
        try:
            there_reader, there_writer = await asyncio.open_connection(self._host, self._port)
        except OSError:
            writer.transport.abort()
            return
        self._open.add(there_writer)
        await asyncio.gather(self._copy(reader, there_writer), self._copy(there_reader, writer))
        self._open -= {writer, there_writer}

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                while self._mood == "silent":
                    await asyncio.sleep(0.05)
                writer.write(data)
                await writer.drain()
        writer.transport.abort()
