"""Waiting for what another task, thread or process will do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


async def until(condition: Callable[[], object], *, what: str = "the condition", within_s: float = 60.0) -> None:
    """Return once `condition()` holds. Raises AssertionError naming what did not come."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {within_s:g} s in vain for {what}"
        await asyncio.sleep(0.01)


def wait_until(condition: Callable[[], object], *, what: str = "the condition", within_s: float = 60.0) -> None:
    """The same, where no event loop runs."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {within_s:g} s in vain for {what}"
        time.sleep(0.02)
