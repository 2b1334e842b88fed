"""What the tests of the learner share. Imported late: only they need torch."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from redis.asyncio import Redis

if TYPE_CHECKING:
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
