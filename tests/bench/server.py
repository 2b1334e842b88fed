"""A Redis-compatible server of a bench's own, set up as the local stack does."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from services.local import valkey
from tests.redis_server import wait_until_up


@contextmanager
def server() -> Iterator[str]:
    """Address of a real, empty server with an append-only file; gone afterwards with its data."""
    with tempfile.TemporaryDirectory(prefix="syncline-") as name:
        folder = Path(name)
        process = subprocess.Popen(valkey.command(folder), stdout=subprocess.DEVNULL)
        try:
            wait_until_up(folder, process)
            yield valkey.url(folder)
        finally:
            process.terminate()
            process.wait(timeout=10)
