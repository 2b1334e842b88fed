"""Random prompt groups for Hypothesis, and their padded tensors."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import torch
from hypothesis import strategies as st

from syncline.algo.algorithm import Algorithm, GroupPlan, LossBatch
from syncline.algo.pairs import PairRule, RandomPair
from tests.unit.algo.slow_losses import Completion

Group = tuple[list[Completion], list[float]]

_LOG_PROBS = st.floats(-4.0, -0.01)
BINARY = st.sampled_from([0.0, 1.0])


@st.composite
def completions(draw: st.DrawFn) -> Completion:
    length = draw(st.integers(1, 4))
    tokens = st.lists(_LOG_PROBS, min_size=length, max_size=length)
    return Completion(
        policy=draw(tokens),
        reference=draw(tokens),
        generator=draw(tokens),
        entropy=[-value for value in draw(tokens)],
    )


@st.composite
def groups(draw: st.DrawFn, rewards: st.SearchStrategy[float] = BINARY) -> Group:
    """A group of 2 to 4 ragged completions with their rewards."""
    size = draw(st.integers(2, 4))
    return (
        draw(st.lists(completions(), min_size=size, max_size=size)),
        draw(st.lists(rewards, min_size=size, max_size=size)),
    )


def plans_of(algorithm: Algorithm, batch: Sequence[Group], rule: PairRule | None = None) -> list[GroupPlan]:
    return [algorithm.plan(rewards, rule or RandomPair(), Random(i)) for i, (_, rewards) in enumerate(batch)]


def loss_batch(
    batch: Sequence[Group], plans: Sequence[GroupPlan], *, prompt: int = 2, padding: int = 1
) -> tuple[LossBatch, torch.Tensor]:
    """The padded batch of the planned rows, and the policy's log-probabilities as its leaf.

    Prompt columns and padding hold NaN: whatever reaches a result from there is seen.
    """
    rows = [group[i] for (group, _), plan in zip(batch, plans, strict=True) for i in plan.rows]
    width = prompt + max((len(row.policy) for row in rows), default=0) + padding
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    tensors = {name: torch.full((len(rows), width), torch.nan, dtype=torch.float64) for name in _FIELDS}
    for i, row in enumerate(rows):
        mask[i, prompt : prompt + len(row.policy)] = True
        for name, tensor in tensors.items():
            tensor[i, mask[i]] = torch.tensor(getattr(row, name), dtype=torch.float64)
    policy = tensors["policy"].requires_grad_()
    return (
        LossBatch.of(
            plans,
            log_probs_RT=policy,
            entropy_RT=tensors["entropy"],
            reference_RT=tensors["reference"],
            generator_RT=tensors["generator"],
            mask_RT=mask,
        ),
        policy,
    )


_FIELDS = ("policy", "reference", "generator", "entropy")
