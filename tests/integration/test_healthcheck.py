"""The command that asks a container's service how it is."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator

import pytest
from fastapi import FastAPI, Response

from services.coordinator.rest import RestServer
from syncline.rpc import Server


async def ask(question: str, **environment: str) -> tuple[int, str]:
    """Exit code and complaint of the real command."""
    command = [sys.executable, "-m", "syncline.healthcheck", question]
    path = {"PYTHONPATH": ":".join(path for path in sys.path if path)}
    process = await asyncio.create_subprocess_exec(*command, env=path | environment, stderr=asyncio.subprocess.PIPE)
    _, complaint = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, complaint.decode()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server("0.0.0.0:0")
    await server.start()
    yield server
    await server.stop(0.0)


async def test_a_service_that_is_not_ready_is_alive_all_the_same(server: Server) -> None:
    assert await ask("liveness", SYNCLINE_BIND=server.address) == (0, "")
    code, complaint = await ask("readiness", SYNCLINE_BIND=server.address)
    assert code == 1
    assert "answers NOT_SERVING" in complaint

    await server.set_ready(True)
    assert await ask("readiness", SYNCLINE_BIND=server.address) == (0, "")


async def test_a_dead_service_is_neither_alive_nor_ready(server: Server) -> None:
    await server.stop(0.0)
    for question in ("liveness", "readiness"):
        code, complaint = await ask(question, SYNCLINE_BIND=server.address)
        assert code == 1
        assert "does not answer: UNAVAILABLE" in complaint


async def test_the_coordinator_is_asked_over_http() -> None:
    app = FastAPI()
    app.get("/healthz")(lambda: "alive")
    app.get("/readyz")(lambda: Response(status_code=503))
    server = RestServer(app, host="127.0.0.1", port=0)
    await server.start()
    bind = server.address.removeprefix("http://")
    try:
        assert await ask("liveness", SYNCLINE_REST_BIND=bind, SYNCLINE_BIND="0.0.0.0:1") == (0, "")
        assert (await ask("readiness", SYNCLINE_REST_BIND=bind))[1].strip().endswith("/readyz answers 503")
    finally:
        await server.stop(0.0)
    assert (await ask("liveness", SYNCLINE_REST_BIND=bind))[0] == 1


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this kernel has no IPv6")
async def test_a_service_that_listens_everywhere_is_reached_by_both_families() -> None:
    app = FastAPI()
    app.get("/healthz")(lambda: "alive")
    rest, grpc = RestServer(app, host="::", port=0), Server("[::]:0")
    await rest.start()
    await grpc.start()
    port = rest.address.rpartition(":")[2]
    try:
        for host in ("127.0.0.1", "[::1]"):
            assert await ask("liveness", SYNCLINE_REST_BIND=f"{host}:{port}") == (0, "")
            assert await ask("liveness", SYNCLINE_BIND=f"{host}:{grpc.address.rpartition(':')[2]}") == (0, "")
    finally:
        await rest.stop(0.0)
        await grpc.stop(0.0)


async def test_another_question_is_a_mistake() -> None:
    assert (await ask("mood"))[0] == 2
