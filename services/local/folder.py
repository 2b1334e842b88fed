"""The folder of a local stack: where its things lie, who owns it, and what it says of itself.

FOLDER/stack.json     state, REST address and children, rewritten whole at each change
FOLDER/stack.pid      process id of the supervisor, locked for as long as it lives
FOLDER/generators     how many generators are wanted; whoever wants another number writes it here
FOLDER/logs/NAME.log  output of each child
FOLDER/redis/         data of the Redis-compatible server
FOLDER/runs/          the runs
FOLDER/sockets/       unix sockets of the children
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from syncline import durable
from syncline.errors import Conflict

_LONGEST_SOCKET_PATH = 100  # the kernel takes 107 bytes
_LOCK_PATIENCE_S = 0.5


class StackFolder:
    """One stack at a time owns a folder: `own` first, `leave` last."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.logs = self.path / "logs"
        self.runs = self.path / "runs"
        self._pid_file = self.path / "stack.pid"
        self._state_file = self.path / "stack.json"
        self.wanted_generators_file = self.path / "generators"
        self._alias: Path | None = None

    def own(self) -> None:
        """Make the folder and take it. Raises Conflict, with its owner, when a living stack has it."""
        for folder in (self.logs, self.runs, self.path / "redis", self.path / "sockets"):
            folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(self._pid_file, os.O_RDWR | os.O_CREAT, 0o600)
        if not _take(lock):
            owner = os.read(lock, 32).decode().strip()
            os.close(lock)
            raise Conflict(f"a stack runs in {self.path} already (process {owner}); stop it first: make down")
        os.ftruncate(lock, 0)
        os.write(lock, f"{os.getpid()}\n".encode())
        if len(str(self.path / "sockets" / "inference-000.sock")) > _LONGEST_SOCKET_PATH:
            # The kernel limits the path as it is written, not where it leads: a short link will do.
            self._alias = Path(tempfile.mkdtemp(prefix="syncline-")) / "s"
            self._alias.symlink_to(self.path)

    def leave(self) -> None:
        """Put away what lies outside. The lock goes with the process: who waits for it finds the process gone."""
        if self._alias is not None:
            shutil.rmtree(self._alias.parent, ignore_errors=True)
            self._alias = None

    @property
    def redis(self) -> Path:
        """Folder of the Redis-compatible server, by a path that its socket fits into."""
        return (self._alias or self.path) / "redis"

    def socket(self, name: str) -> str:
        """gRPC address for a child."""
        return f"unix:{(self._alias or self.path) / 'sockets' / name}.sock"

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def state(self) -> dict[str, Any]:
        """What the stack, or the one before it, said last; empty when there was none."""
        with suppress(FileNotFoundError, json.JSONDecodeError):
            state: dict[str, Any] = json.loads(self._state_file.read_text(encoding="utf-8"))
            return state
        return {}

    def write_state(self, state: Mapping[str, Any]) -> None:
        """Replace stack.json, so that a reader sees the old or the new one and never half of it."""
        durable.write_text(self._state_file, json.dumps(state, indent=2) + "\n")

    def write_wanted_generators(self, count: int) -> None:
        self.wanted_generators_file.write_text(f"{count}\n", encoding="utf-8")

    def wanted_generators(self) -> int | None:
        """The number in the file; None when it holds no number (somebody is writing it)."""
        with suppress(FileNotFoundError, ValueError):
            return max(0, int(self.wanted_generators_file.read_text(encoding="utf-8")))
        return None


def _take(lock: int) -> bool:
    """Lock for as long as this process lives. Tried for a moment, as those who ask who lives here lock it too."""
    deadline = time.monotonic() + _LOCK_PATIENCE_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)


def tail(path: Path, *, lines: int = 15) -> str:
    """The last lines of a log."""
    with suppress(FileNotFoundError), path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 32_768))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    return ""
