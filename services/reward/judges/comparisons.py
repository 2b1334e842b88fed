"""Who is compared with whom in a group, and what the comparisons add up to. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Literal

Ordered = tuple[int, int]
"""Two answers of a group in the order in which the judge sees them."""


def ordered_pairs(count: int, opponents: Literal["all", "pivot"], rng: Random) -> list[Ordered]:
    """Every pair in both orders: N(N-1) for all, 2(N-1) against one random pivot."""
    if opponents == "all":
        return [(i, j) for i in range(count) for j in range(count) if i != j]
    if count < 2:
        return []
    pivot = rng.randrange(count)
    return [pair for other in range(count) if other != pivot for pair in ((other, pivot), (pivot, other))]


def shares_won(count: int, first_wins: Mapping[Ordered, float | None]) -> list[float | None]:
    """The share of its comparisons that each answer won, a tie as a half; None where nothing could be read.

    A pair counts only when it was read in both orders: else the judge's liking for a place would count too.
    """
    won: list[list[float]] = [[] for _ in range(count)]
    for (i, j), forth in first_wins.items():
        back = first_wins.get((j, i))
        if i < j and forth is not None and back is not None:
            share = (forth + 1.0 - back) / 2
            won[i].append(share)
            won[j].append(1.0 - share)
    return [mean(shares) for shares in won]


def mean(values: Sequence[float]) -> float | None:
    """None of nothing."""
    return sum(values) / len(values) if values else None
