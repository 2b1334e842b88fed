"""Pair rules: which completions of a group are preferred over which (sections 3.1 and 3.2).

A rule answers two questions: what DPO takes of a group, one pair as a rule, and every pair (GroupDPO). Where there is
none it names the cause, so that a run can tell easy prompts from hard ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Pair:
    """Two samples of one group, as indices into it."""

    chosen: int
    rejected: int


@dataclass(frozen=True, slots=True)
class Pairing:
    """Pairs, or the cause why there is none: all_correct, all_wrong, tied or below_margin."""

    pairs: tuple[Pair, ...] = ()
    cause: str = ""


class PairRule(Protocol):
    """What counts as better within a group."""

    def one(self, rewards: Sequence[float], rng: Random) -> Pairing:
        """For DPO: at most one pair, but for the rule that takes all."""

    def every(self, rewards: Sequence[float]) -> Pairing:
        """All pairs, in the order of their indices."""


@dataclass(frozen=True, slots=True)
class RandomPair:
    """A random correct completion against a random incorrect one, for rewards of 0 and 1 (section 3.2)."""

    def one(self, rewards: Sequence[float], rng: Random) -> Pairing:
        """The same `rng` state and rewards give the same pair. Raises ValueError for rewards other than 0 and 1."""
        correct, wrong, cause = _split(rewards)
        return Pairing(cause=cause) if cause else Pairing((Pair(rng.choice(correct), rng.choice(wrong)),))

    def every(self, rewards: Sequence[float]) -> Pairing:
        """All correct x all incorrect. Raises ValueError for rewards other than 0 and 1."""
        correct, wrong, cause = _split(rewards)
        return Pairing(cause=cause) if cause else Pairing(tuple(Pair(c, w) for c in correct for w in wrong))


@dataclass(frozen=True, slots=True)
class BestVsWorst:
    """The highest reward against the lowest, if they are more than `min_margin` apart (section 3.1).

    The first of equals is taken: samples of a group are exchangeable.
    """

    min_margin: float = 0.0

    def one(self, rewards: Sequence[float], rng: Random) -> Pairing:
        best = max(range(len(rewards)), key=lambda i: rewards[i])
        worst = min(range(len(rewards)), key=lambda i: rewards[i])
        if rewards[best] - rewards[worst] > self.min_margin:
            return Pairing((Pair(best, worst),))
        return Pairing(cause="tied" if rewards[best] == rewards[worst] else "below_margin")

    def every(self, rewards: Sequence[float]) -> Pairing:
        """Every two rewards that are more than `min_margin` apart; for 0 and 1 this is all correct x all incorrect."""
        pairs = tuple(
            Pair(i, j)
            for i, better in enumerate(rewards)
            for j, worse in enumerate(rewards)
            if better - worse > self.min_margin
        )
        return Pairing(pairs) if pairs else Pairing(cause="tied" if max(rewards) == min(rewards) else "below_margin")


@dataclass(frozen=True, slots=True)
class AllPairs(BestVsWorst):
    """Every two rewards that are more than `min_margin` apart, also for DPO: their mean counts as one pair does."""

    def one(self, rewards: Sequence[float], rng: Random) -> Pairing:
        return self.every(rewards)


PAIR_RULES: dict[str, Callable[..., PairRule]] = {
    "random": RandomPair,
    "best_vs_worst": BestVsWorst,
    "all": AllPairs,
}


def build_pair_rule(options: Mapping[str, Any]) -> PairRule:
    """The rule that a task's `pairs` describes: {"type": "best_vs_worst", "min_margin": 0.5}."""
    rest = dict(options)
    return PAIR_RULES[rest.pop("type")](**rest)


def _split(rewards: Sequence[float]) -> tuple[list[int], list[int], str]:
    """Indices of the correct, indices of the incorrect, and the cause when one of them is empty."""
    if odd := [reward for reward in rewards if reward not in (0.0, 1.0)]:
        raise ValueError(
            f"pairs of type random need rewards of 0 or 1, and one is {odd[0]:g}; "
            "set pairs: {type: best_vs_worst} for this task"
        )
    correct = [i for i, reward in enumerate(rewards) if reward == 1.0]
    wrong = [i for i, reward in enumerate(rewards) if reward == 0.0]
    return correct, wrong, "all_wrong" if not correct else "all_correct" if not wrong else ""
