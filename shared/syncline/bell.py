"""Waiting for a condition on shared state within one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Bell:
    """Rung on every change of some state; those who wait look again.

    Unlike asyncio.Condition there is no lock: the state is only touched between awaits, and a
    cancelled waiter has nothing to give back.
    """

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        """Something has changed."""
        rung, self._event = self._event, asyncio.Event()
        rung.set()

    async def wait(self, *, timeout_s: float | None = None) -> bool:
        """Wait for the next ring; False when none came within `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
            return True
        except TimeoutError:
            return False

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Return as soon as `condition` holds; it is asked at once and after every ring."""
        while not condition():
            await self._event.wait()
