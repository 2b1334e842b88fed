"""What an algorithm is: a plan for each prompt group, and a loss over planned groups.

    rewards of a group --plan--> which rows to forward, in which pairs, with which advantages
    planned groups     --loss--> a sum over groups, and metrics

The unit is the whole prompt group: a micro-batch holds any number of groups, losses are sums over groups, and the
step divides by a denominator that it knows before the first forward. So any cut of a step into micro-batches, and any
share of its groups between ranks, gives the same gradient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Protocol

import torch
from torch import Tensor

from syncline.algo.pairs import Pair, PairRule


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """What one prompt group contributes. Everything else about its samples is never forwarded.

    A plan without rows contributes nothing to the loss; its prompt still counts in the denominator.
    """

    rows: tuple[int, ...] = ()
    """Samples to forward, as indices into the group, ascending."""
    pairs: tuple[Pair, ...] = ()
    """Preference pairs between those samples."""
    pair_weight: float = 0.0
    """Weight of each pair in the loss."""
    advantages: tuple[float, ...] = ()
    """One per row; empty for algorithms without advantages."""
    cause: str = ""
    """Why there are no rows: all_correct, all_wrong, tied, ..."""

    def of_samples(self, samples: Sequence[int]) -> GroupPlan:
        """The plan of a part of a group, told in the whole group's indices: `samples[i]` is what this plan calls i."""
        return replace(
            self,
            rows=tuple(samples[row] for row in self.rows),
            pairs=tuple(Pair(samples[pair.chosen], samples[pair.rejected]) for pair in self.pairs),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LossBatch:
    """The rows of some groups, one after the other, with the pairs and advantages of their plans."""

    log_probs_RT: Tensor
    """log pi of each target token, with gradient."""
    entropy_RT: Tensor
    """Entropy of the policy at each target token in nats, with gradient."""
    reference_RT: Tensor | None
    """log pi_ref of the same tokens; None when the algorithm uses no reference."""
    generator_RT: Tensor
    """What the generator reported for the same tokens when it sampled them."""
    mask_RT: Tensor
    """True at completion tokens, end-of-text included; False at prompt tokens and padding."""
    chosen_P: Tensor
    """Row of each pair's better completion."""
    rejected_P: Tensor
    """Row of each pair's worse completion."""
    pair_weight_P: Tensor
    advantage_R: Tensor
    """Zero for algorithms without advantages."""
    row_weight_R: Tensor
    """1 / rows of the group, so that a weighted sum over rows is a mean within each group."""

    @staticmethod
    def of(
        plans: Sequence[GroupPlan],
        *,
        log_probs_RT: Tensor,
        entropy_RT: Tensor,
        reference_RT: Tensor | None,
        generator_RT: Tensor,
        mask_RT: Tensor,
    ) -> LossBatch:
        """Lay out the plans of the groups whose rows the tensors hold, in the same order.

        What stands at masked positions is replaced by 0, so that an overflow there (exp of a difference between two
        models at a padding token) can reach neither a sum nor, as 0 * inf, a gradient.
        """
        chosen: list[int] = []
        rejected: list[int] = []
        pair_weight: list[float] = []
        advantage: list[float] = []
        row_weight: list[float] = []
        for plan in plans:
            row_of = {sample: len(row_weight) + position for position, sample in enumerate(plan.rows)}
            chosen += [row_of[pair.chosen] for pair in plan.pairs]
            rejected += [row_of[pair.rejected] for pair in plan.pairs]
            pair_weight += [plan.pair_weight] * len(plan.pairs)
            advantage += plan.advantages or (0.0,) * len(plan.rows)
            row_weight += [1.0 / len(plan.rows) for _ in plan.rows]
        assert len(row_weight) == len(log_probs_RT), "one row for each sample of each plan"
        return LossBatch(
            log_probs_RT=torch.where(mask_RT, log_probs_RT, 0.0),
            entropy_RT=torch.where(mask_RT, entropy_RT, 0.0),
            reference_RT=None if reference_RT is None else torch.where(mask_RT, reference_RT, 0.0),
            generator_RT=torch.where(mask_RT, generator_RT, 0.0),
            mask_RT=mask_RT,
            chosen_P=torch.tensor(chosen, dtype=torch.long, device=log_probs_RT.device),
            rejected_P=torch.tensor(rejected, dtype=torch.long, device=log_probs_RT.device),
            pair_weight_P=log_probs_RT.new_tensor(pair_weight),
            advantage_R=log_probs_RT.new_tensor(advantage),
            row_weight_R=log_probs_RT.new_tensor(row_weight),
        )


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean that can be pooled over micro-batches and ranks."""

    total: float
    weight: float

    def __add__(self, other: Mean) -> Mean:
        return Mean(self.total + other.total, self.weight + other.weight)

    @property
    def value(self) -> float:
        """The mean; 0 of nothing."""
        return self.total / self.weight if self.weight else 0.0


@dataclass(frozen=True, slots=True)
class RowMeans:
    """A mean whose parts are known row by row, so that it can be taken over the rows of any task."""

    total_R: Tensor
    """What each row adds to the numerator, without gradient."""
    weight_R: Tensor
    """What each row adds to the denominator."""

    @staticmethod
    def of_rows(value_R: Tensor) -> RowMeans:
        """A mean over rows."""
        return RowMeans(value_R.detach(), torch.ones_like(value_R))

    @staticmethod
    def of_tokens(value_RT: Tensor, mask_RT: Tensor) -> RowMeans:
        """A mean over completion tokens."""
        total_R = torch.where(mask_RT, value_RT.detach(), 0.0).sum(-1)
        return RowMeans(total_R, mask_RT.sum(-1).to(total_R.dtype))

    @staticmethod
    def of_pairs(value_P: Tensor, batch: LossBatch) -> RowMeans:
        """A weighted mean over pairs, each of which counts for the row of its better completion."""
        nothing_R = batch.advantage_R.new_zeros(len(batch.advantage_R))
        weight_P = batch.pair_weight_P
        return RowMeans(
            nothing_R.index_add(0, batch.chosen_P, (weight_P * value_P.detach()).to(nothing_R.dtype)),
            nothing_R.index_add(0, batch.chosen_P, weight_P),
        )

    def mean(self) -> Mean:
        """Over all rows."""
        return Mean(float(self.total_R.sum()), float(self.weight_R.sum()))


@dataclass(frozen=True, slots=True)
class LossOutput:
    """`loss_sum` is a scalar with gradient: a sum over groups, not yet divided."""

    loss_sum: Tensor
    metrics: Mapping[str, RowMeans]


class Algorithm(Protocol):
    """One RL objective. Implementations are frozen dataclasses whose fields are the options in a run spec; these are
    checked, and have their defaults, in `syncline.algorithmspec`."""

    @property
    def uses_reference(self) -> bool:
        """Whether the loss needs `reference_RT`."""

    def plan(self, rewards: Sequence[float], rule: PairRule, rng: Random) -> GroupPlan:
        """Decide what a group of rewards contributes; `rule` and `rng` choose its pairs."""

    def loss(self, batch: LossBatch) -> LossOutput:
        """The summed loss of the planned groups in `batch`."""

    def denominator(self, plans: Sequence[GroupPlan], *, num_prompts: int) -> float:
        """What the step divides the summed loss by: `plans` are those of the whole step on all ranks."""
