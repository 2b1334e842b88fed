"""Starts vLLM's own HTTP server for a model folder, as the local stack does, and leaves nothing of it behind."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from services.local import model_server
from services.local.processes import kill_all


@dataclass(frozen=True)
class VllmServer:
    port: int
    log: Path
    process: subprocess.Popen[bytes]

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def until_healthy(self) -> None:
        deadline = time.monotonic() + model_server.START_DEADLINE_S
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self._last_words()
            try:
                if httpx.get(f"http://127.0.0.1:{self.port}/health", timeout=2.0, trust_env=False).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.2)
        raise AssertionError(f"the server did not answer\n{self._last_words()}")

    def _last_words(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]


@contextmanager
def starting(folder: Path, *, name: str, log: Path, extra: tuple[str, ...] = ()) -> Iterator[VllmServer]:
    """A server on its way up, so that several can start side by side."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with log.open("wb") as output:
        process = subprocess.Popen(
            model_server.command(folder, port=port, name=name, extra=extra),
            env={"OMP_NUM_THREADS": "1", **os.environ, **model_server.ENVIRONMENT},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield VllmServer(port, log, process)
    finally:
        kill_all(sessions={process.pid})  # a server that still starts does not hear SIGTERM
        process.wait(timeout=10)
