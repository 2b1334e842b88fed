"""The local stack as the command line sees it: a process to start and stop, and the files in its folder.

The files are the contract (`services.local.folder` describes them): stack.json and stack.pid.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from syncline.errors import Conflict, NotFound, PeerTimeout, StorageError, SynclineError, Unavailable

_START_DEADLINE_S = 400.0  # above the longest deadline of a child, which gives the better message
_STOP_DEADLINE_S = 30.0
_POLL_S = 0.1


def living(folder: Path) -> dict[str, Any] | None:
    """What the stack in `folder` says of itself; None when none runs there."""
    try:
        with (folder / "stack.pid").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        return _state(folder)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError as error:
        raise SynclineError(f"{folder} cannot be read ({error.strerror}); name another one with --folder") from None


def server_here(folder: Path, *, otherwise: str) -> str:
    """Address of the stack that runs in `folder`; a relative one is looked for in this folder and in those above it.
    Or `otherwise`, where a coordinator may be reached too."""
    here = Path.cwd()
    for place in [folder] if folder.is_absolute() else [above / folder for above in (here, *here.parents)]:
        stack = living(place)
        if stack and stack.get("address"):
            return str(stack["address"])
    return otherwise


def description(state: Mapping[str, Any]) -> str:
    """What a stack runs, from what it says of itself."""
    count = sum(1 for name in state.get("children", {}) if name.startswith("inference-"))
    return f"engine {state.get('engine')}, {count} generator{'' if count == 1 else 's'}"


def log_files(folder: Path, service: str) -> dict[str, Path]:
    """The logs of a stack by service, or the one of `service`. Raises NotFound, saying which there are."""
    found = {path.stem: path for path in sorted((folder / "logs").glob("*.log"))}
    if (supervisor := folder / "supervisor.log").is_file():
        found["supervisor"] = supervisor
    if not found:
        raise NotFound(f"no stack has written logs in {folder}; name its folder with --folder")
    if not service:
        return found
    if service not in found:
        raise NotFound(f"the stack in {folder} has no log of {service!r}; it has: {', '.join(found)}")
    return {service: found[service]}


def last_lines(path: Path, count: int) -> list[str]:
    """The end of a log."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 1000 * count))
        return file.read().decode(errors="replace").splitlines()[-count:]


def start(
    folder: Path,
    *,
    port: int,
    generators: int,
    engine: str,
    project: Path,
    reward_model: Path | None,
    lifeline: bool,
    waiting: Callable[[str], None],
) -> LocalStack:
    """Start a stack and return when it is ready; `waiting` is told what for.

    Raises Conflict when one runs in the folder already, and Unavailable, with the cause, when it does not come up.
    With a lifeline the stack stops when this process is gone, however that happens.
    """
    if (other := living(folder)) is not None:
        raise Conflict(
            f"the stack in {folder} is {other.get('state')} at {other.get('address')}; "
            "take its port (PORT= or --port), or stop it: make down"
        )
    log_file = folder / "supervisor.log"
    options = {"folder": folder, "port": port, "generators": generators, "engine": engine, "project": project}
    if reward_model is not None:
        options["reward-model"] = reward_model
    command = [sys.executable, "-m", "services.local"]
    command += [text for name, value in options.items() for text in (f"--{name}", str(value))]
    with _opened(log_file) as log:
        begin = log.tell()
        process = subprocess.Popen(  # noqa: S603 - our own program
            [*command, "--lifeline"] if lifeline else command,
            stdin=subprocess.PIPE if lifeline else subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # a Ctrl-C is for us; we stop the stack in good order
        )
    stack = LocalStack(folder, process)
    try:
        _until_ready(folder, process, waiting, log_begin=begin)
    except BaseException:
        stack.stop()
        raise
    return stack


class LocalStack:
    """A stack that this process has started."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes]) -> None:
        self.folder = folder
        self._process = process

    def leave(self) -> None:
        """Let it go on when this process is gone."""
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):  # it is gone already
                self._process.stdin.write(b"stay\n")
                self._process.stdin.flush()

    def stop(self) -> None:
        """Stop it and wait until it is gone."""
        self._process.terminate()
        try:
            self._process.wait(timeout=_STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()  # its guardian ends the children
            self._process.wait()


def stop(folder: Path) -> bool:
    """Stop the stack that runs in `folder`; False when none did. Raises PeerTimeout when it does not go."""
    state = living(folder)
    if state is None:
        return False
    pid = int((folder / "stack.pid").read_text())
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_DEADLINE_S
    while time.monotonic() < deadline:
        if living(folder) is None:
            return True
        time.sleep(_POLL_S)
    raise PeerTimeout(f"the stack in {folder} (process {pid}) did not stop within {_STOP_DEADLINE_S:g} s")


def _opened(log_file: Path) -> BinaryIO:
    """The log, to write at its end: another stack may have been started here at the same moment."""
    try:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        return log_file.open("ab")
    except OSError as error:
        problem = f"{log_file.parent} can hold no stack ({error.strerror})"
        raise StorageError(f"{problem}; name another folder with --folder") from None


def _until_ready(
    folder: Path, process: subprocess.Popen[bytes], waiting: Callable[[str], None], *, log_begin: int
) -> None:
    waiting("starting the local stack")
    deadline = time.monotonic() + _START_DEADLINE_S
    while time.monotonic() < deadline:
        code = process.poll()
        state = _state(folder)
        ours = state.get("pid") == process.pid
        if code is not None:
            said = state.get("error") if ours else ""
            raise Unavailable(
                f"the local stack did not start: {said or _last_words(folder / 'supervisor.log', log_begin)}"
            )
        if ours and state["state"] == "ready":
            return
        if ours and state["state"] == "starting":
            missing = [name for name, child in state["children"].items() if child["phase"] != "ready"]
            if missing:
                waiting(f"starting the local stack: waiting for {', '.join(missing)}")
        time.sleep(_POLL_S)
    raise SynclineError(
        f"the local stack was not ready within {_START_DEADLINE_S:g} s; its logs are in {folder / 'logs'}"
    )


def _state(folder: Path) -> dict[str, Any]:
    with suppress(FileNotFoundError, json.JSONDecodeError):
        state: dict[str, Any] = json.loads((folder / "stack.json").read_text(encoding="utf-8"))
        return state
    return {}


def _last_words(path: Path, begin: int) -> str:
    """What the log says from byte `begin` on, without the lines that are for machines."""
    lines = path.read_bytes()[begin:].decode(errors="replace").splitlines()
    lines = [line for line in lines if not line.startswith("{")]
    return "\n".join(lines[-5:]) if lines else f"it said nothing; see {path}"
