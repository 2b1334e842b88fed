"""Checks on their way to a worker: who waits for which kind, and in what order. Pure."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Iterable
from dataclasses import dataclass

from services.reward.verifiers.wire import Outcome, Question


@dataclass(slots=True, eq=False)
class Asked:
    """A question that somebody waits for."""

    number: int
    """Of its arrival."""
    question: Question
    outcome: asyncio.Future[Outcome]
    tries: int = 0
    """Limits of CPU time that it has used up."""
    losses: int = 0
    """Workers that were lost over it."""

    def __lt__(self, other: Asked) -> bool:
        """Less CPU time first, then who came first: a slow honest check does not wait for the end of hostile ones."""
        return (self.tries, self.number) < (other.tries, other.number)


class Lane:
    """Questions that wait for a worker of one kind. Fair: nobody takes more than a share of what there is."""

    def __init__(self, *, workers: int, niceness: int, depth: int) -> None:
        self.workers = workers
        self.niceness = niceness
        self.depth = depth
        """Questions that a worker may hold."""
        self._waiting: list[Asked] = []
        self._news = asyncio.Event()

    def add(self, asked: Asked) -> None:
        heapq.heappush(self._waiting, asked)
        self._news.set()

    def put_back(self, some: Iterable[Asked]) -> None:
        """They have their old places again."""
        for asked in some:
            self.add(asked)

    async def some(self) -> None:
        """Return when a question waits."""
        while not self._waiting:
            self._news.clear()
            await self._news.wait()

    def take(self, *, held: int) -> list[Asked]:
        """Questions for a worker that holds `held`."""
        share = -(-len(self._waiting) // self.workers)
        return [heapq.heappop(self._waiting) for _ in range(min(share, self.depth - held))]

    def drop_all(self) -> list[Asked]:
        dropped, self._waiting = self._waiting, []
        return dropped
