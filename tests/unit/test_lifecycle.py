"""How a service ends: by a signal, by a worker, by a readiness that cannot be told any more."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys

import pytest

from syncline.errors import Unavailable
from syncline.lifecycle import run_service


class Door:
    """What a service is reached through, as far as its life goes."""

    def __init__(self) -> None:
        self.answers: list[bool] = []
        self.stopped = False

    async def set_ready(self, ready: bool) -> None:
        self.answers.append(ready)

    async def stop(self, grace_s: float) -> None:
        self.stopped = True


async def always() -> None:
    """Ready, whenever asked."""


async def forever() -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            "Unavailable('cannot listen on 127.0.0.1:9')",
            {"event": "cannot_start", "error": "cannot listen on 127.0.0.1:9"},
        ),
        ("KeyError('phase')", {"event": "ended_by_a_bug"}),
    ],
)
def test_a_service_that_cannot_go_on_says_why_in_one_line_and_leaves_with_one(error: str, told: dict[str, str]) -> None:
    program = (
        "import sys\n"
        "from syncline.errors import Unavailable\n"
        "from syncline.lifecycle import main\n"
        "from syncline.settings import ServiceSettings\n"
        f"def run(settings):\n    raise {error}\n"
        "sys.exit(main('reward', ServiceSettings, run, log_format='json'))\n"
    )
    path = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert {"service": "reward", "level": "error", **told}.items() <= json.loads(line).items()


async def test_a_signal_drains_and_leaves_with_zero() -> None:
    door, drained = Door(), asyncio.Event()

    async def send_signal() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await forever()

    async def drain() -> None:
        drained.set()

    assert await run_service(server=door, workers={"sender": send_signal}, ready=always, drain=drain) == 0
    assert drained.is_set()
    assert door.stopped
    assert door.answers[-1] is False


async def test_a_worker_that_ends_takes_the_service_down() -> None:
    door = Door()
    assert await run_service(server=door, workers={"brief": always, "steady": forever}, ready=always) == 1
    assert door.stopped


async def test_a_service_that_is_not_ready_goes_on() -> None:
    door = Door()

    async def not_yet() -> None:
        raise Unavailable("Redis does not answer")

    async def until_told() -> None:
        while not door.answers:
            await asyncio.sleep(0)

    await run_service(server=door, workers={"watcher": until_told}, ready=not_yet)
    assert door.answers == [False, False]  # as long as it ran, and when it ended


async def test_a_bug_in_the_readiness_ends_the_service_instead_of_leaving_its_last_answer() -> None:
    door, asked = Door(), 0

    async def ready_once() -> None:
        nonlocal asked
        asked += 1
        if asked > 1:
            raise KeyError("phase")

    async with asyncio.timeout(10.0):
        assert await run_service(server=door, workers={"steady": forever}, ready=ready_once) == 1
    assert door.answers == [True, False]
    assert door.stopped


async def test_what_cannot_be_closed_does_not_keep_the_process() -> None:
    async with asyncio.timeout(10.0):
        code = await run_service(server=Door(), workers={"brief": always}, ready=always, close=forever, close_s=0.05)
    assert code == 1
