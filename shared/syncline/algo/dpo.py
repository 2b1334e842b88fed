"""DPO on one pair a prompt (eq. 3), with the optional terms of the paper: NLL and entropy (sections 4.2 and B.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar, Literal

from torch import Tensor

from syncline.algo import losses
from syncline.algo.algorithm import GroupPlan, LossBatch, LossOutput, RowMeans
from syncline.algo.pairs import Pairing, PairRule


@dataclass(frozen=True, slots=True, kw_only=True)
class DPO:
    """sum over pairs of w * [ -log sigmoid(margin) + nll_weight * NLL(y_c) - entropy_weight * H(y_c) ].

    With `importance_cap`, w is multiplied by min(cap, pi(y_c) pi(y_r) / (pi_gen(y_c) pi_gen(y_r))): the probability
    of drawing this very pair now, relative to when it was drawn.
    """

    uses_reference: ClassVar[bool] = True

    beta: float
    length_normalize: bool
    nll_weight: float
    entropy_weight: float
    importance_cap: float | None
    normalize: Literal["prompts", "pairs"]

    def plan(self, rewards: Sequence[float], rule: PairRule, rng: Random) -> GroupPlan:
        """One pair by the task's rule; only its two completions are forwarded."""
        return plan_pairs(rule.one(rewards, rng))

    def loss(self, batch: LossBatch) -> LossOutput:
        assert batch.reference_RT is not None, "DPO needs the reference"
        chosen_P, rejected_P = batch.chosen_P, batch.rejected_P
        policy_R = self._sequences(batch.log_probs_RT, batch.mask_RT)
        reference_R = self._sequences(batch.reference_RT, batch.mask_RT)

        margin_P = losses.dpo_margin(policy_R, reference_R, chosen_P, rejected_P, beta=self.beta)
        loss_P = losses.dpo(margin_P)
        if self.nll_weight:
            loss_P = loss_P + self.nll_weight * losses.nll(batch.log_probs_RT, batch.mask_RT)[chosen_P]
        if self.entropy_weight:
            loss_P = loss_P - self.entropy_weight * losses.row_means(batch.entropy_RT, batch.mask_RT)[chosen_P]

        weight_P = batch.pair_weight_P
        length_R = batch.mask_RT.sum(-1).to(policy_R.dtype)
        measured = {
            "chosen_log_prob": policy_R[chosen_P],
            "rejected_log_prob": policy_R[rejected_P],
            "chosen_length": length_R[chosen_P],
            "rejected_length": length_R[rejected_P],
            "margin": margin_P,
            "pair_accuracy": (margin_P > 0).to(margin_P.dtype),
        }
        if self.importance_cap is not None:
            summed_R = losses.row_sums(batch.log_probs_RT, batch.mask_RT)
            generator_R = losses.row_sums(batch.generator_RT, batch.mask_RT)
            importance_P = losses.truncated_importance(
                summed_R[chosen_P] + summed_R[rejected_P],
                generator_R[chosen_P] + generator_R[rejected_P],
                cap=self.importance_cap,
            )
            weight_P = weight_P * importance_P
            measured["importance"] = importance_P
        metrics = {name: RowMeans.of_pairs(value_P, batch) for name, value_P in measured.items()}
        return LossOutput((weight_P * loss_P).sum(), metrics)

    def denominator(self, plans: Sequence[GroupPlan], *, num_prompts: int) -> float:
        """All prompts of the step, as in fairseq2, or the pairs found. A prompt's pairs in GroupDPO count as one."""
        if self.normalize == "prompts":
            return float(num_prompts)
        return max(1.0, sum(plan.pair_weight * len(plan.pairs) for plan in plans))

    def _sequences(self, log_probs_RT: Tensor, mask_RT: Tensor) -> Tensor:
        return losses.sequence_log_probs(log_probs_RT, mask_RT, length_normalize=self.length_normalize)


def plan_pairs(pairing: Pairing) -> GroupPlan:
    """Forward what the pairs name; the pairs of a group share a weight of 1."""
    if not pairing.pairs:
        return GroupPlan(cause=pairing.cause)
    rows = sorted({sample for pair in pairing.pairs for sample in (pair.chosen, pair.rejected)})
    return GroupPlan(rows=tuple(rows), pairs=pairing.pairs, pair_weight=1.0 / len(pairing.pairs))
