"""Loss terms as small pure functions on padded tensors. Shapes: see the package docstring.

Masked positions never reach a sum, whatever they hold: they are replaced by 0, not multiplied by 0.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def row_sums(values_RT: Tensor, mask_RT: Tensor) -> Tensor:
    """Sum over the masked tokens of each row -> [R]."""
    return torch.where(mask_RT, values_RT, 0.0).sum(-1)


def row_means(values_RT: Tensor, mask_RT: Tensor) -> Tensor:
    """Mean over the masked tokens of each row -> [R]; 0 for a row without tokens."""
    return row_sums(values_RT, mask_RT) / mask_RT.sum(-1).clamp(min=1)


def sequence_log_probs(log_probs_RT: Tensor, mask_RT: Tensor, *, length_normalize: bool) -> Tensor:
    """log pi(y|x) of each completion -> [R]: the sum over its tokens, or their mean with `length_normalize`."""
    return (row_means if length_normalize else row_sums)(log_probs_RT, mask_RT)


def dpo_margin(policy_R: Tensor, reference_R: Tensor, chosen_P: Tensor, rejected_P: Tensor, *, beta: float) -> Tensor:
    """beta * [log pi(y_c) - log pi_ref(y_c)] - beta * [log pi(y_r) - log pi_ref(y_r)] -> [P] (eq. 3)."""
    gain_R = policy_R - reference_R
    return beta * (gain_R[chosen_P] - gain_R[rejected_P])


def dpo(margin_P: Tensor) -> Tensor:
    """-log sigmoid(margin) -> [P] (eq. 3); ln 2 where policy and reference agree."""
    return -F.logsigmoid(margin_P)


def nll(log_probs_RT: Tensor, mask_RT: Tensor) -> Tensor:
    """Negative log-likelihood per token, averaged over each completion -> [R] (section B.2).

    The mean is within the completion, not over the tokens of the batch: else a pair's weight
    would depend on what it is batched with.
    """
    return -row_means(log_probs_RT, mask_RT)


def k3(log_probs_RT: Tensor, other_RT: Tensor) -> Tensor:
    """exp(d) - d - 1 with d = other - log_probs -> [R, T]: the k3 estimate of KL(pi || other), never negative.

    It is unbiased for tokens that pi sampled. The paper leaves the KL term of eq. 1 out; fairseq2 uses this one.
    """
    difference_RT = other_RT - log_probs_RT
    return torch.expm1(difference_RT) - difference_RT


def truncated_importance(log_probs: Tensor, generator: Tensor, *, cap: float) -> Tensor:
    """min(pi / pi_generator, cap) from log-probabilities of any equal shape, without gradient."""
    return torch.exp((log_probs - generator).detach()).clamp(max=cap)


def policy_gradient(log_probs_RT: Tensor, old_RT: Tensor, advantage_R: Tensor, *, clip: float | None = None) -> Tensor:
    """min(rho * A, clip(rho, 1 - clip, 1 + clip) * A) with rho = exp(log_probs - old) -> [R, T] (eq. 1).

    With old = log_probs.detach() rho is 1 and its gradient is that of log pi.
    """
    ratio_RT = torch.exp(log_probs_RT - old_RT)
    advantage_R1 = advantage_R.unsqueeze(-1)
    if clip is None:
        return ratio_RT * advantage_R1
    return torch.minimum(ratio_RT * advantage_R1, ratio_RT.clamp(1.0 - clip, 1.0 + clip) * advantage_R1)
