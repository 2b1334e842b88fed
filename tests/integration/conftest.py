"""Fixtures of more than one file. What they make is imported late: few tests need torch, or a browser."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from redis.asyncio import Redis

if TYPE_CHECKING:
    import httpx

    from services.reward.endpoints import Endpoints
    from tests.integration.chromium import Chromium
    from tests.integration.coordinator_thread import Coordinator
    from tests.integration.learner_world import World


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest Llama that learns."""
    from tests.integration.tiny_models import make_tiny_model

    return make_tiny_model(tmp_path_factory.mktemp("seed"), seed=0, hidden=16, layers=1, heads=1)


@pytest.fixture
async def world(redis: Redis, tmp_path: Path) -> AsyncIterator[World]:
    """A learner behind gRPC, with a run folder of its own."""
    from tests.integration.learner_world import learner_world

    async with learner_world(redis, tmp_path / "run") as world:
        yield world


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a model and a prompt file."""
    from tests.integration.rest_world import SEED_MODEL

    shutil.copytree(SEED_MODEL, tmp_path / "model")
    (tmp_path / "train.jsonl").write_text('{"prompt": "12+34=", "answer": "46"}\n' * 3)
    return tmp_path


@pytest.fixture
async def api(project: Path, redis: Redis) -> AsyncIterator[httpx.AsyncClient]:
    """A coordinator over that folder, without its workers."""
    from tests.integration.rest_world import serve

    async with serve(project, redis) as client:
        yield client


@pytest.fixture
async def endpoints() -> AsyncIterator[Endpoints]:
    """Calls to judges and reward models that try again without long waits."""
    from services.reward.endpoints import Endpoints
    from syncline.backoff import Backoff

    made = Endpoints(backoff=Backoff(first_s=0.01, longest_s=0.1))
    yield made
    await made.close()


@pytest.fixture
def coordinate(tmp_path: Path, redis_url: str) -> Iterator[Callable[..., Coordinator]]:
    """Starts coordinators, and stops them after the test."""
    from tests.integration.coordinator_thread import Coordinator

    started: list[Coordinator] = []

    def start(**options: Any) -> Coordinator:
        started.append(Coordinator(tmp_path, redis_url, **options))
        return started[-1]

    yield start
    for coordinator in started:
        coordinator.close()


@pytest.fixture(scope="module")
def chromium_process() -> Iterator[Chromium]:
    """A headless Chromium. Where there is none these tests are skipped, but not in CI."""
    from tests.integration import chromium

    program = chromium.find()
    if program is None:
        missing = (
            "the web page needs a browser to be tested: no Chromium is installed (Debian: apt-get install chromium)"
        )
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    browser = chromium.Chromium(program)
    yield browser
    browser.close()


@pytest.fixture
def browser(chromium_process: Chromium) -> Iterator[Chromium]:
    """The browser with an empty tab. A test that made its console or its policy complain has failed."""
    yield chromium_process
    complaints = list(chromium_process.complaints)
    chromium_process.open("about:blank")
    assert complaints == []
