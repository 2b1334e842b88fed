"""Shaping of scores, as named, pure functions of the run spec's `shaping` list."""

from __future__ import annotations

from collections.abc import Sequence

from syncline.rewardspec import LengthPenalty, OverlongPenalty, ShapingSpec


def shaped(score: float, shaping: Sequence[ShapingSpec], *, tokens: int, max_tokens: int) -> float:
    """The score after every shaping, in order. What is not known (0) takes nothing off: see `skipped`."""
    for one in shaping:
        match one:
            case LengthPenalty():
                score = length_penalty(score, tokens=tokens, per_token=one.per_token)
            case OverlongPenalty() if max_tokens > 0 and tokens > 0:
                score = overlong_penalty(
                    score, tokens=tokens, max_tokens=max_tokens, margin=one.margin, weight=one.weight
                )
    return score


def skipped(shaping: Sequence[ShapingSpec], *, tokens: int, max_tokens: int) -> str:
    """Why shapings that were asked for were left out; empty where none was. An unknown number is 0."""
    missing = " and ".join(name for name, number in (("tokens", tokens), ("max_tokens", max_tokens)) if not number)
    left_out = [
        f"{one.type} penalty left out: {'tokens' if isinstance(one, LengthPenalty) else missing} not known"
        for one in shaping
        if not tokens or (isinstance(one, OverlongPenalty) and not max_tokens)
    ]
    return "; ".join(left_out)


def length_penalty(score: float, *, tokens: int, per_token: float) -> float:
    """Take `per_token` off for each token of the completion."""
    return score - per_token * tokens


def overlong_penalty(score: float, *, tokens: int, max_tokens: int, margin: int, weight: float) -> float:
    """Nothing off up to `max_tokens - margin` tokens, `weight` off at `max_tokens`, and a line between."""
    over = tokens - (max_tokens - margin)
    return score - weight * min(1.0, max(0.0, over / margin))
