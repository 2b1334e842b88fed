"""A line between services and their Redis that stalls, or is slow, as a network does: no byte is lost or changed."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path


class BadLine:
    """Forwards one unix socket to another in a thread of its own."""

    def __init__(self, listen: Path, target: Path) -> None:
        self.url = f"unix://{listen}"
        self.delay_s = 0.0
        """How much later every piece arrives."""
        self._listen, self._target = listen, target
        self._loop = asyncio.new_event_loop()
        self._open = asyncio.Event()
        self._open.set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="bad-line", daemon=True)

    def __enter__(self) -> BadLine:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._serve(), self._loop).result(10)
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def stall(self) -> None:
        """From now on nothing arrives, in either direction; connections stay, and new ones are taken."""
        self._loop.call_soon_threadsafe(self._open.clear)

    def heal(self) -> None:
        """What was held up arrives."""
        self._loop.call_soon_threadsafe(self._open.set)

    async def _serve(self) -> None:
        self._server = await asyncio.start_unix_server(self._connect, self._listen)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back_reader, back_writer = await asyncio.open_unix_connection(self._target)
        await asyncio.gather(self._pump(reader, back_writer), self._pump(back_reader, writer), return_exceptions=True)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                await asyncio.sleep(self.delay_s)
                await self._open.wait()
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()
