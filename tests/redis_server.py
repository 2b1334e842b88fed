"""A Redis-compatible server that a test has started itself."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from services.local import valkey
from syncline.errors import Unavailable

START_DEADLINE_S = 20.0


def wait_until_up(folder: Path, process: subprocess.Popen[bytes]) -> None:
    """Return when the server answers. Raises Unavailable when it ended or the deadline passed."""
    client = Redis.from_url(valkey.url(folder), socket_timeout=1.0)
    deadline = time.monotonic() + START_DEADLINE_S
    try:
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise Unavailable(f"the Redis server in {folder} ended with code {process.returncode}; see its log")
            try:
                client.ping()
                return
            except RedisError:
                time.sleep(0.02)
        raise Unavailable(f"the Redis server in {folder} did not answer in {START_DEADLINE_S:g} s; see its log")
    finally:
        client.close()
