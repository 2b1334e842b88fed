"""The losses of the paper once more: plain Python floats, one loop per sum, nothing shared with the code under test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

LogProbs = Sequence[float]


@dataclass(frozen=True)
class Completion:
    """One completion: per token, the log-probability by policy, reference and generator, and the entropy."""

    policy: LogProbs
    reference: LogProbs
    generator: LogProbs
    entropy: Sequence[float]


def sequence(log_probs: LogProbs, *, length_normalize: bool) -> float:
    return sum(log_probs) / len(log_probs) if length_normalize else sum(log_probs)


def pair_loss(
    chosen: Completion,
    rejected: Completion,
    *,
    beta: float,
    length_normalize: bool = False,
    nll_weight: float = 0.0,
    entropy_weight: float = 0.0,
    importance_cap: float | None = None,
) -> float:
    gain = [
        sequence(one.policy, length_normalize=length_normalize)
        - sequence(one.reference, length_normalize=length_normalize)
        for one in (chosen, rejected)
    ]
    loss = math.log(1.0 + math.exp(-beta * (gain[0] - gain[1])))
    loss += nll_weight * -sum(chosen.policy) / len(chosen.policy)
    loss -= entropy_weight * sum(chosen.entropy) / len(chosen.entropy)
    if importance_cap is not None:
        drift = sum(sum(one.policy) - sum(one.generator) for one in (chosen, rejected))
        loss *= min(math.exp(drift), importance_cap)
    return loss


def group_dpo(group: Sequence[Completion], rewards: Sequence[float], **options: float) -> float:
    total, count = 0.0, 0
    for chosen, better in zip(group, rewards, strict=True):
        for rejected, worse in zip(group, rewards, strict=True):
            if better == 1.0 and worse == 0.0:
                total += pair_loss(chosen, rejected, **options)
                count += 1
    return total / count if count else 0.0


def advantages(rewards: Sequence[float], *, scale: bool) -> list[float]:
    mean = sum(rewards) / len(rewards)
    if not scale:
        return [reward - mean for reward in rewards]
    std = math.sqrt(sum((reward - mean) ** 2 for reward in rewards) / (len(rewards) - 1))
    return [(reward - mean) / (std + 1e-6) for reward in rewards]


def k3(policy: float, other: float) -> float:
    return math.exp(other - policy) - (other - policy) - 1.0


def grpo(
    group: Sequence[Completion],
    rewards: Sequence[float],
    *,
    beta: float,
    length_normalize: bool = False,
    scale_rewards: bool = False,
    clip: float | None = None,
    entropy_weight: float = 0.0,
    importance_cap: float | None = None,
) -> float:
    objective = 0.0
    for one, advantage in zip(group, advantages(rewards, scale=scale_rewards), strict=True):
        tokens = 0.0
        for policy, reference, generator in zip(one.policy, one.reference, one.generator, strict=True):
            ratio = 1.0 if clip is None else math.exp(policy - generator)
            term = ratio * advantage
            if clip is not None:
                term = min(term, min(max(ratio, 1.0 - clip), 1.0 + clip) * advantage)
            if importance_cap is not None:
                term *= min(math.exp(policy - generator), importance_cap)
            tokens += term - beta * k3(policy, reference)
        objective += tokens / len(one.policy) if length_normalize else tokens
        objective += entropy_weight * sum(one.entropy) / len(one.entropy)
    return -objective / len(group)
