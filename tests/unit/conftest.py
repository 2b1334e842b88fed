"""Unit tests are quick: one that hangs is told soon."""

from __future__ import annotations

from pathlib import Path

import pytest

TIMEOUT_S = 60  # of a busy machine; an idle one needs two


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TIMEOUT_S))
