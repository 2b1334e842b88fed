"""Shaping of scores, as named, pure functions of the run spec's `shaping` list."""

from __future__ import annotations

from collections.abc import Sequence

from syncline.rewardspec import LengthPenalty, OverlongPenalty, ShapingSpec


def shaped(score: float, shaping: Sequence[ShapingSpec], *, tokens: int, max_tokens: int) -> float:
    """The score after every shaping, in order."""
    for one in shaping:
        match one:
            case LengthPenalty():
                score = length_penalty(score, tokens=tokens, per_token=one.per_token)
            case OverlongPenalty():
                score = overlong_penalty(
                    score, tokens=tokens, max_tokens=max_tokens, margin=one.margin, weight=one.weight
                )
    return score


def length_penalty(score: float, *, tokens: int, per_token: float) -> float:
    """Take `per_token` off for each token of the completion."""
    return score - per_token * tokens


def overlong_penalty(score: float, *, tokens: int, max_tokens: int, margin: int, weight: float) -> float:
    """Nothing off up to `max_tokens - margin` tokens, `weight` off at `max_tokens`, and a line between."""
    over = tokens - (max_tokens - margin)
    return score - weight * min(1.0, max(0.0, over / margin))
