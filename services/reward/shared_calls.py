"""Calls that several want at the same time are made once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


@dataclass(slots=True, eq=False)
class _Call(Generic[Value]):
    task: asyncio.Task[Value]
    waiting: int = 0


class SharedCalls(Generic[Key, Value]):
    """What is under way, by key. A call goes on while anybody waits for it, and ends with the last who gives up."""

    def __init__(self) -> None:
        self._calls: dict[Key, _Call[Value]] = {}

    async def get(self, key: Key, make: Callable[[], Awaitable[Value]]) -> Value:
        """The result of the call for `key`, of one that is under way or of a new one. Raises what the call raises."""
        call = self._calls.get(key)
        if call is None:
            call = self._calls[key] = _Call(asyncio.ensure_future(_awaited(make)))
        call.waiting += 1
        try:
            return await asyncio.shield(call.task)
        finally:
            call.waiting -= 1
            if call.waiting == 0:  # it is done, or nobody wants it any more
                call.task.cancel()
                if self._calls.get(key) is call:
                    del self._calls[key]


async def _awaited(make: Callable[[], Awaitable[Value]]) -> Value:
    return await make()
