"""GroupDPO + grpo_weight * GRPO (sections 4.2 and B.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from syncline.algo.advantages import group_advantages
from syncline.algo.algorithm import GroupPlan, LossBatch, LossOutput
from syncline.algo.dpo import plan_pairs
from syncline.algo.group_dpo import GroupDPO
from syncline.algo.grpo import grpo_loss
from syncline.algo.pairs import PairRule


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupDPOGRPO(GroupDPO):
    """L_GroupDPO(x, Yc, Yr) + alpha * L_GRPO(x, Yc u Yr), alpha being `grpo_weight`.

    The options of the preference loss are those of DPO; `importance_cap` holds for both terms, per pair and per token.
    """

    grpo_weight: float
    grpo_beta: float
    scale_rewards: bool

    def plan(self, rewards: Sequence[float], rule: PairRule, rng: Random) -> GroupPlan:
        """All pairs, and all completions with their advantages. A tied group is dropped, as in GroupDPO.

        A group whose rewards differ by too little for a pair still trains the GRPO term.
        """
        plan = plan_pairs(rule.every(rewards))
        advantages = group_advantages(rewards, scale=self.scale_rewards)
        if not any(advantages) or not self.grpo_weight:
            return plan
        return replace(plan, rows=tuple(range(len(rewards))), advantages=advantages, cause="")

    def loss(self, batch: LossBatch) -> LossOutput:
        preference = GroupDPO.loss(self, batch)
        policy = grpo_loss(batch, beta=self.grpo_beta, importance_cap=self.importance_cap)
        metrics = dict(preference.metrics) | {f"grpo_{name}": mean for name, mean in policy.metrics.items()}
        return LossOutput(preference.loss_sum + self.grpo_weight * policy.loss_sum, metrics)
