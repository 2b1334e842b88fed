"""GroupDPO: DPO averaged over all pairs of a prompt (eq. 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from syncline.algo.algorithm import GroupPlan
from syncline.algo.dpo import DPO, plan_pairs
from syncline.algo.pairs import PairRule


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupDPO(DPO):
    """1 / (|Yc| |Yr|) * sum over y_c, y_r of DPO(x, y_c, y_r): DPO with another plan (eq. 4)."""

    def plan(self, rewards: Sequence[float], rule: PairRule, rng: Random) -> GroupPlan:
        """Every pair by the task's rule: all correct x all incorrect for rewards of 0 and 1."""
        return plan_pairs(rule.every(rewards))
