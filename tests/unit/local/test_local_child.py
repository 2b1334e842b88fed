"""One child: readiness, a true account of a failure, restarts, a stop that always ends. Children are real programs."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from services.local.child import Child
from services.local.programs import Program
from syncline.errors import PeerTimeout, Unavailable
from tests.waiting import until


class Watch:
    """Stands where the guardian stands and keeps its list."""

    def __init__(self) -> None:
        self.pids: set[int] = set()

    def watch(self, pid: int) -> None:
        self.pids.add(pid)

    def forget(self, pid: int) -> None:
        self.pids.discard(pid)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def child(tmp_path: Path, *command: str, health: str, deadline_s: float = 20.0, watch: Watch | None = None) -> Child:
    program = Program(
        name="pupil",
        command=(sys.executable, *command),
        environment=dict(os.environ),
        health=health,
        deadline_s=deadline_s,
    )
    return Child(program, log_file=tmp_path / "pupil.log", mark="none", guardian=watch or Watch(), changed=lambda: None)


def web(tmp_path: Path, watch: Watch | None = None) -> Child:
    """A child that is ready when it serves HTTP."""
    port = free_port()
    command = ("-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(tmp_path))
    return child(tmp_path, *command, health=f"http://127.0.0.1:{port}/", watch=watch)


async def test_a_child_is_ready_when_it_answers_and_stops_when_asked(tmp_path: Path) -> None:
    watch = Watch()
    pupil = web(tmp_path, watch)
    await pupil.start()
    assert pupil.phase == "ready"
    assert watch.pids == {pupil.describe()["pid"]}
    await pupil.stop(grace_s=10.0)
    assert pupil.phase == "stopped"
    assert watch.pids == set()


async def test_a_child_that_ends_early_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    pupil = child(tmp_path, "-c", "raise SystemExit('no engine here')", health="http://127.0.0.1:9/")
    with pytest.raises(Unavailable, match=r"pupil ended with exit code 1 before it was ready; (?s:.*)no engine here"):
        await pupil.start()
    await pupil.stop(grace_s=1.0)


async def test_a_child_that_never_gets_ready_is_named_and_killed_at_its_deadline(tmp_path: Path) -> None:
    pupil = child(tmp_path, "-c", "import time; time.sleep(60)", health="http://127.0.0.1:9/", deadline_s=0.3)
    with pytest.raises(PeerTimeout, match=r"pupil was not ready within 0\.3 s"):
        await pupil.start()
    await pupil.stop(grace_s=5.0)
    assert pupil.phase == "stopped"


async def test_a_child_that_dies_is_started_anew(tmp_path: Path) -> None:
    pupil = web(tmp_path)
    await pupil.start()
    keeping = asyncio.create_task(pupil.keep())
    first = pupil.describe()["pid"]
    os.kill(first, signal.SIGKILL)
    await until(lambda: pupil.restarts == 1 and pupil.phase == "ready")
    assert pupil.describe()["pid"] != first
    keeping.cancel()
    with suppress(asyncio.CancelledError):
        await keeping
    await pupil.stop(grace_s=10.0)


async def test_a_child_that_ignores_sigterm_is_killed_after_the_grace(tmp_path: Path) -> None:
    stubborn = (
        "import signal, sys, http.server\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "http.server.test(http.server.SimpleHTTPRequestHandler, port=int(sys.argv[1]), bind='127.0.0.1')\n"
    )
    port = free_port()
    pupil = child(tmp_path, "-c", stubborn, str(port), health=f"http://127.0.0.1:{port}/")
    await pupil.start()
    await pupil.stop(grace_s=0.2)
    assert pupil.phase == "stopped"
    with pytest.raises(ProcessLookupError):
        os.kill(pupil.describe()["pid"], 0)
