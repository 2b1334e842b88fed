"""How a service lives: start, be ready, drain on SIGTERM, leave with a true exit code.

`main` is the whole process, from its settings to its exit code; `run_service` is its life in the event loop.

The first SIGTERM or SIGINT turns readiness off and drains; a second one exits at once.
A worker that ends by itself or raises takes the whole service down, and so does whoever asks for
readiness: half a service that still answers health checks is worse than none.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import structlog

from syncline import settings, telemetry
from syncline.errors import SynclineError
from syncline.settings import Settings

log = structlog.get_logger()
Worker = Callable[[], Awaitable[None]]
_READINESS_PERIOD_S = 1.0
_CLOSE_S = 10.0  # below what a pod gets on top of its grace, so that the exit code is still ours


class Endpoint(Protocol):
    """What a service is reached through: a gRPC server, or the coordinator's REST server."""

    async def set_ready(self, ready: bool) -> None: ...

    async def stop(self, grace_s: float) -> None: ...


def main(service: str, kind: type[Settings], run: Callable[[Settings], int], **fixed: Any) -> int:
    """Load the settings, set up logs and metrics, run; returns the exit code, with the cause of a failure in the log.

    `fixed` are settings that the environment has no say in.
    """
    chosen = settings.load(kind, **fixed)
    telemetry.setup(service, chosen)
    try:
        return run(chosen)
    except SynclineError as error:
        log.error("cannot_start", code=error.code, error=error.message)
    except Exception as error:  # a bug; the exit code is ours all the same
        log.error("ended_by_a_bug", exc_info=error)
    return 1


async def run_service(
    *,
    server: Endpoint,
    workers: Mapping[str, Worker],
    ready: Callable[[], Awaitable[None]],
    drain: Worker | None = None,
    close: Worker | None = None,
    grace_s: float = 20.0,
    close_s: float = _CLOSE_S,
) -> int:
    """Run until a signal or a failed worker; returns the exit code.

    `server` has been started, as workers need its address. `ready` raises a SynclineError while
    the service cannot do its work; it is asked every second, and any other error of it ends the service.
    `drain` stops taking work and gives back what is not finished, within `grace_s`; `close` frees what
    the service holds, engines included, within `close_s`.
    """
    stop = _stop_on_signals()
    readiness = asyncio.ensure_future(_follow_readiness(server, ready))
    tasks = {readiness: "readiness"} | {asyncio.ensure_future(worker()): name for name, worker in workers.items()}
    stopping = asyncio.create_task(stop.wait(), name="stop")
    try:
        done, _ = await asyncio.wait({*tasks, stopping}, return_when=asyncio.FIRST_COMPLETED)
        code = _exit_code({task: name for task, name in tasks.items() if task in done})
        readiness.cancel()
        await server.set_ready(False)
        if drain is not None:
            await _within(grace_s, drain, "drain_ran_out_of_time")
        return code
    finally:
        for task in (*tasks, stopping):
            task.cancel()
        await asyncio.gather(*tasks, stopping, return_exceptions=True)
        await server.stop(grace_s=1.0)
        if close is not None:
            await _within(close_s, close, "close_ran_out_of_time")


async def _within(seconds: float, work: Worker, complaint: str) -> None:
    try:
        async with asyncio.timeout(seconds):
            await work()
    except TimeoutError:
        log.warning(complaint, seconds=seconds)


def _exit_code(ended: Mapping[asyncio.Future[None], str]) -> int:
    code = 0
    for task, name in ended.items():
        error = None if task.cancelled() else task.exception()
        if isinstance(error, SynclineError):
            log.error("worker_failed", worker=name, code=error.code, error=error.message)
        else:
            log.error("worker_failed", worker=name, exc_info=error)
        code = 1
    return code


async def _follow_readiness(server: Endpoint, ready: Callable[[], Awaitable[None]]) -> None:
    was_ready: bool | None = None
    while True:
        try:
            await ready()
            is_ready, why = True, ""
        except SynclineError as error:
            is_ready, why = False, error.message
        await server.set_ready(is_ready)
        if is_ready is not was_ready:
            log.info("ready" if is_ready else "not_ready", **({"why": why} if why else {}))
            was_ready = is_ready
        await asyncio.sleep(_READINESS_PERIOD_S)


def _stop_on_signals() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(number: int) -> None:
        if stop.is_set():
            log.warning("second_signal_exiting_now", signal=number)
            os._exit(130)
        log.info("stopping", signal=signal.Signals(number).name)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    return stop
