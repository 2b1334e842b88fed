"""Group-relative advantages (section 2.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence

STD_EPS = 1e-6


def group_advantages(rewards: Sequence[float], *, scale: bool) -> tuple[float, ...]:
    """A_i = r_i - mean(r) as in eq. 1; `scale` divides by (std(r) + 1e-6), std being the unbiased one, as in fairseq2.

    They sum to 0 up to rounding, and are exactly 0 when all rewards tie.
    """
    if min(rewards) == max(rewards):
        return (0.0,) * len(rewards)
    mean = math.fsum(rewards) / len(rewards)
    centred = tuple(reward - mean for reward in rewards)
    if not scale:
        return centred
    std = math.sqrt(math.fsum(value * value for value in centred) / (len(rewards) - 1))
    return tuple(value / (std + STD_EPS) for value in centred)
