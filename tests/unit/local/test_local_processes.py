"""Nothing of a stack is left, whatever its processes did to hide. Real processes, killed for real."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid

import pytest

from services.local.processes import MARK, belonging, kill_all
from tests.waiting import wait_until

SLEEP = "import time; time.sleep(60)"
# A child with a grandchild in a session of its own, as torchrun makes them; prints its id when it is there.
WITH_A_DAEMON = f"""
import subprocess, sys, time
grandchild = subprocess.Popen([sys.executable, "-c", {SLEEP!r}], start_new_session=True)
print(grandchild.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def mark() -> str:
    return uuid.uuid4().hex


def start(program: str, *, mark: str | None) -> subprocess.Popen[str]:
    environment = {**os.environ, MARK: mark} if mark else dict(os.environ)
    command = [sys.executable, "-c", program]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True)


def test_a_grandchild_in_its_own_session_is_found_by_its_mark(mark: str) -> None:
    with start(WITH_A_DAEMON, mark=mark) as child:
        assert child.stdout is not None
        grandchild = int(child.stdout.readline())
        child.kill()
        child.wait()
        wait_until(lambda: belonging(mark=mark) == [grandchild])
        assert kill_all(mark=mark) == 1
        assert belonging(mark=mark) == []


def test_a_process_without_the_mark_is_found_by_its_session(mark: str) -> None:
    with start(SLEEP, mark=None) as child:
        assert belonging(mark=mark) == []
        assert belonging(sessions={child.pid}) == [child.pid]
        assert kill_all(sessions={child.pid}) == 1
        assert child.wait() == -signal.SIGKILL


def test_the_guardian_kills_what_is_watched_when_its_supervisor_is_killed(mark: str) -> None:
    # Given a supervisor with a guardian that watches one child, and forgot another
    supervisor = f"""
import subprocess, sys, time
from services.local.guardian import Guardian
guardian = Guardian({mark!r})
children = [subprocess.Popen([sys.executable, "-c", {SLEEP!r}], start_new_session=True) for _ in range(2)]
for child in children:
    guardian.watch(child.pid)
guardian.forget(children[1].pid)
print(*(child.pid for child in children), flush=True)
time.sleep(60)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", supervisor]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        watched, forgotten = (int(pid) for pid in process.stdout.readline().split())
        # When the supervisor is killed
        process.kill()
        process.wait()
        # Then the watched child is gone, and the other one is not
        wait_until(lambda: belonging(sessions={watched}) == [])
        assert belonging(sessions={forgotten}) == [forgotten]
        os.kill(forgotten, signal.SIGKILL)
