"""A whole local stack with the light engine: the real programs, a real server, real gRPC."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.local_stack import LocalStack


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """One stack for the tests of a module; each test asks for the number of generators that it needs."""
    with LocalStack(tmp_path_factory.mktemp("stack"), project=Path.cwd()) as stack:
        yield stack
