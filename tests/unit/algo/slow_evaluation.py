"""The statistics of an evaluation once more: slowly, from their definitions, in plain Python."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Sequence


def pass_at(scores: Sequence[Sequence[float]], k: int) -> float:
    """Look at every way to pick k samples of a prompt."""
    chances = []
    for row in scores:
        picks = list(itertools.combinations(row, k))
        chances.append(sum(any(score > 0 for score in pick) for pick in picks) / len(picks))
    return statistics.fmean(chances)


def wilson(right: int, prompts: int) -> tuple[float, float]:
    """The two proportions that lie 1.96 of their own standard deviations from the one that was seen."""
    seen, z = right / prompts, statistics.NormalDist().inv_cdf(0.975)

    def too_far(p: float) -> float:
        return (seen - p) ** 2 - z**2 * p * (1 - p) / prompts

    low = _zero_between(lambda p: too_far(p), 0.0, seen)
    return low, _zero_between(lambda p: -too_far(p), seen, 1.0)


def _zero_between(falling: Callable[[float], float], low: float, high: float) -> float:
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return (low + high) / 2


def length_controlled_win_rate(won: Sequence[Sequence[float]], differences: Sequence[Sequence[float]]) -> float:
    """Maximise the penalised likelihood by bisection of its derivative: the level inside, the slope outside."""
    spread = statistics.pstdev([value for row in differences for value in row])
    points = [
        (outcome, math.tanh(difference / spread) if spread else 0.0, 1 / len(row))
        for row, others in zip(won, differences, strict=True)
        for outcome, difference in zip(row, others, strict=True)
    ]

    def probability(level: float, slope: float, length: float) -> float:
        return 1 / (1 + math.exp(-(level + slope * length)))

    def best_level(slope: float) -> float:
        return root(lambda level: sum(w * (y - probability(level, slope, x)) for y, x, w in points) - 1e-6 * level)

    def by_slope(slope: float) -> float:
        level = best_level(slope)
        return sum(w * x * (y - probability(level, slope, x)) for y, x, w in points) - slope

    return probability(best_level(root(by_slope)), 0.0, 0.0)


def root(falling: Callable[[float], float], *, reach: float = 40.0) -> float:
    """Where a falling function crosses zero, in [-reach, reach]."""
    return _zero_between(falling, -reach, reach)
