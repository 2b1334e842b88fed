"""Finding and ending every process of a stack, whoever started it and whoever its parent is by now.

Two signs tell that a process belongs to a stack. Either alone has a hole:

- it is in the session of a child (each child leads one); torchrun's ranks have sessions of their own
- its environment holds the stack's mark; a program that writes its own title may overwrite that
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

MARK = "SYNCLINE_STACK_MARK"
"""Environment variable that holds the mark."""


def belonging(*, mark: str = "", sessions: Collection[int] = ()) -> list[int]:
    """Ids of the living processes that carry `mark` or are in one of `sessions`; never the asking one."""
    wanted = f"{MARK}={mark}".encode() if mark else None
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        pid = int(folder.name)
        if pid == os.getpid():
            continue
        with suppress(OSError):  # it ended meanwhile, or is another user's
            # stat is "pid (name) state parent group session ..."; only the name may hold spaces and brackets
            state, _, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            if state != "Z" and (int(session) in sessions or wanted in (folder / "environ").read_bytes().split(b"\0")):
                found.append(pid)
    return found


def kill_all(*, mark: str = "", sessions: Collection[int] = (), within_s: float = 5.0) -> int:
    """SIGKILL what carries `mark` or is in one of `sessions`; returns how many processes that were.

    Again and again until nothing is left, because a process that is being killed may just have started another one.
    """
    killed: set[int] = set()
    deadline = time.monotonic() + within_s
    while (left := belonging(mark=mark, sessions=sessions)) and time.monotonic() < deadline:
        killed.update(left)
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    return len(killed)
