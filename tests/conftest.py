"""Fixtures of all tests: real servers, one for the session. Redis is emptied for each test."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
from redis.asyncio import Redis

from services.local import valkey
from syncline import redis_client
from tests.object_store import ObjectStore, object_store_at
from tests.redis_server import wait_until_up


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """Address of a real server. Its folder is short: a unix socket's path is limited to about 100 characters."""
    with tempfile.TemporaryDirectory(prefix="syncline-") as name:
        folder = Path(name)
        process = subprocess.Popen(valkey.command(folder), stdout=subprocess.DEVNULL)
        try:
            wait_until_up(folder, process)
            yield valkey.url(folder)
        finally:
            process.terminate()
            process.wait(timeout=10)


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    """A client for an empty server."""
    client = redis_client.connect(redis_url)
    await client.flushall()
    yield client
    await client.aclose()


@pytest.fixture(scope="session")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """A real server that speaks S3; each test makes buckets of its own."""
    with object_store_at(tmp_path_factory.mktemp("object-store")) as store:
        yield store
