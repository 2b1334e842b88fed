"""GRPO without length bias (section 2.1, eq. 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from syncline.algo import losses
from syncline.algo.advantages import group_advantages
from syncline.algo.algorithm import GroupPlan, LossBatch, LossOutput, RowMeans
from syncline.algo.pairs import PairRule


@dataclass(frozen=True, slots=True, kw_only=True)
class GRPO:
    """-sum over prompts of mean_i sum_t [ min(rho A_i, clip(rho) A_i) - beta * k3_t ] - entropy_weight * mean_i H_i.

    There is one update per rollout. Without `clip` rho is the policy against itself: 1 in value, the gradient of
    log pi; `importance_cap` then corrects for an older or slightly different generator by min(pi / pi_gen, cap) per
    token. With `clip` rho is the policy against the generator, as in PPO.
    """

    beta: float
    length_normalize: bool
    scale_rewards: bool
    clip: float | None
    entropy_weight: float
    importance_cap: float | None

    @property
    def uses_reference(self) -> bool:
        return self.beta > 0.0

    def plan(self, rewards: Sequence[float], rule: PairRule, rng: Random) -> GroupPlan:
        """All completions with their advantages.

        A tied group has no advantages; it is forwarded only for the terms that do not depend on them.
        """
        advantages = group_advantages(rewards, scale=self.scale_rewards)
        if not any(advantages) and not self.beta and not self.entropy_weight:
            return GroupPlan(cause="tied")
        return GroupPlan(rows=tuple(range(len(rewards))), advantages=advantages)

    def loss(self, batch: LossBatch) -> LossOutput:
        return grpo_loss(
            batch,
            beta=self.beta,
            length_normalize=self.length_normalize,
            clip=self.clip,
            entropy_weight=self.entropy_weight,
            importance_cap=self.importance_cap,
        )

    def denominator(self, plans: Sequence[GroupPlan], *, num_prompts: int) -> float:
        """All prompts of the step, tied ones included."""
        return float(num_prompts)


def grpo_loss(
    batch: LossBatch,
    *,
    beta: float,
    length_normalize: bool = False,
    clip: float | None = None,
    entropy_weight: float = 0.0,
    importance_cap: float | None = None,
) -> LossOutput:
    """The loss of `GRPO` on planned groups; also a term of the combined loss."""
    measured = {"advantage_abs": batch.advantage_R.abs()}
    old_RT = batch.log_probs_RT.detach() if clip is None else batch.generator_RT
    objective_RT = losses.policy_gradient(batch.log_probs_RT, old_RT, batch.advantage_R, clip=clip)
    if importance_cap is not None:
        importance_RT = losses.truncated_importance(batch.log_probs_RT, batch.generator_RT, cap=importance_cap)
        objective_RT = objective_RT * importance_RT
        measured["importance"] = losses.row_means(importance_RT, batch.mask_RT)
    if clip is not None:
        outside_RT = (batch.log_probs_RT.detach() - old_RT).expm1().abs() > clip
        measured["clip_fraction"] = losses.row_means(outside_RT.to(old_RT.dtype), batch.mask_RT)
    if beta:
        assert batch.reference_RT is not None, "GRPO with beta > 0 needs the reference"
        objective_RT = objective_RT - beta * losses.k3(batch.log_probs_RT, batch.reference_RT)

    objective_R = (losses.row_means if length_normalize else losses.row_sums)(objective_RT, batch.mask_RT)
    if entropy_weight:
        objective_R = objective_R + entropy_weight * losses.row_means(batch.entropy_RT, batch.mask_RT)
    metrics = {name: RowMeans.of_rows(value_R) for name, value_R in measured.items()}
    return LossOutput(-(batch.row_weight_R * objective_R).sum(), metrics)
