"""Token log-probabilities and entropies from logits, in float32, without a second [R, T, V] in float32.

A plain log_softmax of bfloat16 logits makes a float32 copy of them and keeps another one for the backward pass: for
a vocabulary of 128k that is by far the largest tensor of a step. Here both passes go over slices of tokens; only the
logits themselves are kept, and the gradient is written in their own type.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_CHUNK_ELEMENTS = 1 << 24  # 64 MiB in float32


def token_scores(logits_RTV: Tensor, ids_RT: Tensor, *, chunk_elements: int = _CHUNK_ELEMENTS) -> tuple[Tensor, Tensor]:
    """log softmax(logits)[id] and the entropy of softmax(logits) in nats, each [R, T], differentiable.

    Computed in float32 (float64 for float64 logits), about `chunk_elements` logits at a time. Logits of -inf are
    tokens that cannot be sampled; they add nothing to the entropy.
    """
    rows, _, vocabulary = logits_RTV.shape
    chunk = max(1, chunk_elements // max(1, rows * vocabulary))
    log_probs_RT, entropy_RT = _TokenScores.apply(logits_RTV, ids_RT, chunk)  # type: ignore[no-untyped-call]
    return log_probs_RT, entropy_RT


class _TokenScores(torch.autograd.Function):
    """With p = softmax(z), H = -sum p log p:  d log p_i / dz = onehot_i - p;  dH / dz = -p log p - p H."""

    @staticmethod
    def forward(ctx: Any, logits_RTV: Tensor, ids_RT: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
        dtype = torch.promote_types(logits_RTV.dtype, torch.float32)
        log_probs_RT = logits_RTV.new_empty(ids_RT.shape, dtype=dtype)
        entropy_RT = torch.empty_like(log_probs_RT)
        normalizer_RT = torch.empty_like(log_probs_RT)
        for start in range(0, ids_RT.shape[1], chunk):
            part = slice(start, start + chunk)
            z = logits_RTV[:, part].to(dtype)
            normalizer = z.logsumexp(-1)
            log_probs_RT[:, part] = z.gather(-1, ids_RT[:, part].unsqueeze(-1)).squeeze(-1) - normalizer
            entropy_RT[:, part] = torch.special.entr((z - normalizer.unsqueeze(-1)).exp()).sum(-1)
            normalizer_RT[:, part] = normalizer
        ctx.chunk = chunk
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(logits_RTV, ids_RT, normalizer_RT, entropy_RT)
        return log_probs_RT, entropy_RT

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_log_probs_RT: Tensor | None, grad_entropy_RT: Tensor | None) -> Any:
        logits_RTV, ids_RT, normalizer_RT, entropy_RT = ctx.saved_tensors
        grad_RTV = torch.empty_like(logits_RTV)
        for start in range(0, ids_RT.shape[1], ctx.chunk):
            part = slice(start, start + ctx.chunk)
            z = logits_RTV[:, part].to(normalizer_RT.dtype)
            p = (z - normalizer_RT[:, part].unsqueeze(-1)).exp()
            grad = torch.zeros_like(p)
            if grad_log_probs_RT is not None:
                upstream = grad_log_probs_RT[:, part].unsqueeze(-1)
                grad -= upstream * p
                grad.scatter_add_(-1, ids_RT[:, part].unsqueeze(-1), upstream)
            if grad_entropy_RT is not None:
                upstream = grad_entropy_RT[:, part].unsqueeze(-1)
                grad += upstream * (torch.special.entr(p) - p * entropy_RT[:, part].unsqueeze(-1))
            grad_RTV[:, part] = grad
        return grad_RTV, None, None
