"""AdamW and its learning rate."""

from __future__ import annotations

import math

import torch

from services.learner.policy import Policy
from syncline.run_parts import Optimizer

COSINE_FLOOR = 0.2
"""Share of the learning rate that the cosine schedule ends at, as in the recipe of fairseq2, the paper's own code."""


def build_optimizer(policy: Policy, spec: Optimizer) -> torch.optim.AdamW:
    """AdamW over all parameters; the learning rate is set anew at each step."""
    return torch.optim.AdamW(
        [parameter for _, parameter in policy.named_parameters()],
        lr=spec.lr,
        betas=spec.betas,
        eps=spec.eps,
        weight_decay=spec.weight_decay,
        fused=True,
    )


def learning_rate(spec: Optimizer, *, step: int, steps: int) -> float:
    """Of update `step` of `steps`: linear warm-up that reaches lr at its last step, then constant or a cosine.

    It depends on the step alone, so a resumed run needs no scheduler state.
    """
    if step < spec.warmup_steps:
        return spec.lr * (step + 1) / spec.warmup_steps
    if spec.schedule == "constant":
        return spec.lr
    progress = (step - spec.warmup_steps) / max(1, steps - spec.warmup_steps)
    return spec.lr * (COSINE_FLOOR + (1.0 - COSINE_FLOOR) * 0.5 * (1.0 + math.cos(math.pi * progress)))
