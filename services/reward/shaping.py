"""Shaping of scores, as named, pure functions of the run spec's `shaping` list."""

from __future__ import annotations

from collections.abc import Sequence

from syncline.rewardspec import LengthPenalty, OverlongPenalty, ShapingSpec


def shaped(score: float, shaping: Sequence[ShapingSpec], *, tokens: int, max_tokens: int) -> float:
    """The score after every shaping, in order. Without `max_tokens` (0) nothing is overlong: see `skipped`."""
    for one in shaping:
        match one:
            case LengthPenalty():
                score = length_penalty(score, tokens=tokens, per_token=one.per_token)
            case OverlongPenalty() if max_tokens > 0:
                score = overlong_penalty(
                    score, tokens=tokens, max_tokens=max_tokens, margin=one.margin, weight=one.weight
                )
    return score


def skipped(shaping: Sequence[ShapingSpec], *, max_tokens: int) -> str:
    """Why a shaping that was asked for was left out; empty where none was."""
    overlong = any(isinstance(one, OverlongPenalty) for one in shaping)
    return "overlong penalty left out: max_tokens is not known" if overlong and max_tokens == 0 else ""


def length_penalty(score: float, *, tokens: int, per_token: float) -> float:
    """Take `per_token` off for each token of the completion."""
    return score - per_token * tokens


def overlong_penalty(score: float, *, tokens: int, max_tokens: int, margin: int, weight: float) -> float:
    """Nothing off up to `max_tokens - margin` tokens, `weight` off at `max_tokens`, and a line between."""
    over = tokens - (max_tokens - margin)
    return score - weight * min(1.0, max(0.0, over / margin))
