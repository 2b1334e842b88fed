"""How long to wait before something is tried again."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Pauses that double up to a longest one.

        pauses = Backoff(first_s=0.2, longest_s=10.0).pauses()
        while not await succeeds():
            await asyncio.sleep(next(pauses))

    After a success, take new `pauses`.
    """

    first_s: float
    longest_s: float
    jitter: float = 0.0
    """Largest share that is taken off a pause at random, so that many who wait do not all come back at once."""

    def pauses(self) -> Iterator[float]:
        """Seconds, without end."""
        pause_s = self.first_s
        while True:
            yield pause_s * random.uniform(1.0 - self.jitter, 1.0)
            pause_s = min(2.0 * pause_s, self.longest_s)
