"""From token ids to log-probabilities: the transformer, then the output layer on completion tokens alone, in tiles.

A module of its own around the model, so that copies of parameters (see Policy) and shards (see shards) reach the
output layer as they reach everything else. No logits of a whole batch ever exist.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from syncline.algo.logprobs import LogitShape, token_scores


class Scorer(torch.nn.Module):
    """A causal language model that answers with log p and entropy."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self._shape = logit_shape(model.config.get_text_config())

    def forward(self, input_ids_RW: Tensor, mask_RT: Tensor, *, plain: bool = False) -> tuple[Tensor, Tensor]:
        """log p and entropy of the last T ids of each row, each [R, T] in float32; 0 where the mask is False.

        With `plain` by the model's own logits, in one piece: the yardstick for the other way.
        """
        num_targets = mask_RT.shape[1]
        targets_RT = input_ids_RW[:, -num_targets:]
        if plain:
            logits_RTV = self.model(input_ids=input_ids_RW, use_cache=False).logits[:, -num_targets - 1 : -1].float()
            log_p_RTV = logits_RTV.log_softmax(-1)
            log_probs_RT = log_p_RTV.gather(-1, targets_RT.unsqueeze(-1)).squeeze(-1)
            entropy_RT = -(log_p_RTV.exp() * log_p_RTV).sum(-1)
            return torch.where(mask_RT, log_probs_RT, 0.0), torch.where(mask_RT, entropy_RT, 0.0)
        hidden_RWH = self.model.get_decoder()(input_ids=input_ids_RW, use_cache=False).last_hidden_state
        head = self.model.get_output_embeddings()
        log_probs_N, entropy_N = token_scores(
            hidden_RWH[:, -num_targets - 1 : -1][mask_RT],  # what stands before each target predicts it
            head.weight,
            targets_RT[mask_RT],
            bias_V=head.bias,
            shape=self._shape,
        )
        nothing_RT = log_probs_N.new_zeros(mask_RT.shape)
        return nothing_RT.masked_scatter(mask_RT, log_probs_N), nothing_RT.masked_scatter(mask_RT, entropy_N)


def logit_shape(config: Any) -> LogitShape:
    """What the model does to its logits, by the names that Hugging Face configurations have for it."""
    scale = getattr(config, "logit_scale", None) or getattr(config, "lm_head_multiplier", None)
    if scale is None and (divisor := getattr(config, "logits_scaling", None)):
        scale = 1.0 / divisor
    return LogitShape(scale=float(scale or 1.0), softcap=getattr(config, "final_logit_softcapping", None))
