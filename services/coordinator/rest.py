"""Serves the application with uvicorn inside the service's own event loop."""

from __future__ import annotations

import asyncio
import socket

import structlog
import uvicorn
from fastapi import FastAPI
from sse_starlette.sse import AppStatus

from syncline import addresses
from syncline.errors import Unavailable

log = structlog.get_logger()


class RestServer:
    """A uvicorn server with the same verbs as `syncline.rpc.Server`."""

    def __init__(self, app: FastAPI, *, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._server = _Server(
            uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=2, lifespan="off")
        )
        self.address = f"http://{addresses.bracketed(f'{host}:{port}')}"

    async def start(self) -> None:
        """Bind, so that a taken port is told at once. Raises Unavailable."""
        try:
            family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
            both = self._host == "::"  # of both families
            self._socket = socket.create_server((self._host, self._port), family=family, dualstack_ipv6=both)
        except OSError as error:
            raise Unavailable(
                f"cannot listen on {self._host}:{self._port} ({error.strerror}); set SYNCLINE_REST_BIND to a free port"
            ) from error
        self.address = f"http://{addresses.bracketed(f'{self._host}:{self._socket.getsockname()[1]}')}"
        log.info("listening", address=self.address)
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]), name="rest")

    async def set_ready(self, ready: bool) -> None:
        """Readiness is asked of /readyz itself, which looks at Redis each time."""

    async def stop(self, grace_s: float) -> None:
        self._server.should_exit = True
        AppStatus.should_exit = True  # ends event streams, which wait for uvicorn's own signal handlers otherwise
        try:
            async with asyncio.timeout(grace_s + 3.0):
                await self._task
        finally:
            AppStatus.should_exit = False


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: `syncline.lifecycle` owns the signals."""

    def capture_signals(self):  # type: ignore[no-untyped-def] # uvicorn's own signature is a context manager
        from contextlib import nullcontext

        return nullcontext()
