"""What is worth watching in every algorithm (paper sections 7 and 8.9)."""

from __future__ import annotations

import torch

from syncline.algo import losses
from syncline.algo.algorithm import LossBatch, RowMeans


@torch.no_grad()
def token_metrics(batch: LossBatch) -> dict[str, RowMeans]:
    """Means over the completion tokens of the forwarded rows, in nats.

    entropy: of the full next-token distribution. mismatch_kl: k3 between trainer and generator on the generator's own
    samples; at staleness 0 it measures the numerical mismatch of the two engines alone. kl_reference: k3 against the
    reference, where the algorithm has one.
    """
    measured = {
        "entropy": batch.entropy_RT,
        "mismatch_kl": losses.k3(batch.generator_RT, batch.log_probs_RT),
    }
    if batch.reference_RT is not None:
        measured["kl_reference"] = losses.k3(batch.log_probs_RT, batch.reference_RT)
    return {name: RowMeans.of_tokens(value_RT, batch.mask_RT) for name, value_RT in measured.items()}


@torch.no_grad()
def largest_mismatch(batch: LossBatch) -> float:
    """Largest |log pi - log pi_gen| of a completion token of the forwarded rows, in nats."""
    return float((batch.log_probs_RT - batch.generator_RT).abs().max())
