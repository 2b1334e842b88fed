"""Token log-probabilities and entropies straight from hidden states: the output layer, without its logits.

For a vocabulary of 128k the logits [N, V] of a step are by far its largest tensor, and a plain log_softmax holds
several of that size. Here none of that size ever exists: both passes go over tiles of a few thousand tokens by about
a thousand vocabulary entries. The forward pass keeps two numbers a token; the backward pass computes each tile again.

    N tokens   H hidden size   V vocabulary      n, v: those of one tile
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


@dataclass(frozen=True, slots=True)
class Tile:
    """What is computed at once: about three times tokens x vocabulary x 4 bytes at a time."""

    tokens: int = 2048
    vocabulary: int = 1024


_TILE = Tile()
_LOWEST = -1e30  # a maximum over nothing; finite, so that 0 * (it - x) is 0


@dataclass(frozen=True, slots=True)
class LogitShape:
    """What a model does to the product of hidden state and output layer: softcap * tanh(scale * product / softcap)."""

    scale: float = 1.0
    softcap: float | None = None

    def apply_(self, product_nv: Tensor) -> Tensor:
        """The logits, in place."""
        if self.scale != 1.0:
            product_nv.mul_(self.scale)
        if self.softcap is not None:
            product_nv.div_(self.softcap).tanh_().mul_(self.softcap)
        return product_nv

    def backward_(self, grad_nv: Tensor, logits_nv: Tensor) -> Tensor:
        """The gradient of the product from that of the logits, in place."""
        if self.softcap is not None:
            grad_nv.mul_(1.0 - (logits_nv / self.softcap).square_())
        return grad_nv.mul_(self.scale) if self.scale != 1.0 else grad_nv


_PLAIN = LogitShape()


def token_scores(
    hidden_NH: Tensor,
    weight_VH: Tensor,
    ids_N: Tensor,
    *,
    bias_V: Tensor | None = None,
    shape: LogitShape = _PLAIN,
    tile: Tile = _TILE,
) -> tuple[Tensor, Tensor]:
    """log softmax(z)[id] and the entropy of softmax(z) in nats, each [N], with z the logits of each hidden state.

    Differentiable in hidden states, weight and bias. Products are computed in the type of the hidden states, what
    follows in float32 (float64 for float64). Logits must be finite.
    """
    log_probs_N, entropy_N = _TokenScores.apply(hidden_NH, weight_VH, bias_V, ids_N, shape, tile)  # type: ignore[no-untyped-call]
    return log_probs_N, entropy_N


class _TokenScores(torch.autograd.Function):
    """With p = softmax(z), H = -sum p log p:  d log p_i / dz = onehot_i - p;  dH / dz = -p (log p + H)."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_NH: Tensor,
        weight_VH: Tensor,
        bias_V: Tensor | None,
        ids_N: Tensor,
        shape: LogitShape,
        tile: Tile,
    ) -> tuple[Tensor, Tensor]:
        dtype = torch.promote_types(hidden_NH.dtype, torch.float32)
        log_probs_N = hidden_NH.new_empty(len(ids_N), dtype=dtype)
        normalizer_N, entropy_N = torch.empty_like(log_probs_N), torch.empty_like(log_probs_N)
        for tokens in _slices(len(ids_N), tile.tokens):
            hidden_nH, ids_n = hidden_NH[tokens], ids_N[tokens]
            # Over the vocabulary entries so far: the largest logit m, sum exp(z - m), and sum exp(z - m) (z - m).
            largest_n = torch.full_like(log_probs_N[tokens], _LOWEST)
            mass_n, moment_n, chosen_n = (torch.zeros_like(largest_n) for _ in range(3))
            for entries in _slices(len(weight_VH), tile.vocabulary):
                z_nv = _logits(hidden_nH, weight_VH, bias_V, entries, shape, dtype)
                inside_n, at_n1 = _position(ids_n, entries)
                chosen_n = torch.where(inside_n, z_nv.gather(1, at_n1).squeeze(1), chosen_n)
                before_n, largest_n = largest_n, torch.maximum(largest_n, z_nv.amax(1))
                moved_n = before_n - largest_n
                shrunk_n = moved_n.exp()
                z_nv -= largest_n.unsqueeze(1)
                exp_nv = z_nv.exp()
                moment_n = shrunk_n * (moment_n + mass_n * moved_n)
                mass_n = shrunk_n * mass_n + exp_nv.sum(1)
                moment_n += exp_nv.mul_(z_nv).sum(1)
            log_mass_n = mass_n.log()
            normalizer_N[tokens] = largest_n + log_mass_n
            log_probs_N[tokens] = chosen_n - normalizer_N[tokens]
            entropy_N[tokens] = log_mass_n - moment_n / mass_n
        ctx.shape, ctx.tile, ctx.has_bias = shape, tile, bias_V is not None
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(
            hidden_NH, weight_VH, ids_N, normalizer_N, entropy_N, *([bias_V] if bias_V is not None else [])
        )
        return log_probs_N, entropy_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_log_probs_N: Tensor | None, grad_entropy_N: Tensor | None) -> Any:
        hidden_NH, weight_VH, ids_N, normalizer_N, entropy_N, *rest = ctx.saved_tensors
        bias_V = rest[0] if ctx.has_bias else None
        dtype = normalizer_N.dtype
        if grad_log_probs_N is None:
            grad_log_probs_N = torch.zeros_like(normalizer_N)
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        grad_hidden_NH = torch.zeros_like(hidden_NH, dtype=dtype) if wants_hidden else None
        grad_weight_VH = torch.empty_like(weight_VH) if wants_weight else None
        grad_bias_V = torch.empty_like(bias_V) if bias_V is not None and wants_bias else None
        for entries in _slices(len(weight_VH), ctx.tile.vocabulary):
            weight_vH = weight_VH[entries]
            grad_weight_vH = torch.zeros_like(weight_vH, dtype=dtype) if wants_weight else None
            grad_bias_v = torch.zeros_like(weight_vH[:, 0], dtype=dtype)
            for tokens in _slices(len(ids_N), ctx.tile.tokens):
                hidden_nH = hidden_NH[tokens]
                z_nv = _logits(hidden_nH, weight_VH, bias_V, entries, ctx.shape, dtype)
                log_p_nv = z_nv - normalizer_N[tokens].unsqueeze(1)
                grad_nv = log_p_nv.exp()
                upstream_n1 = grad_log_probs_N[tokens].unsqueeze(1)
                if grad_entropy_N is None:
                    grad_nv.mul_(-upstream_n1)
                else:
                    log_p_nv += entropy_N[tokens].unsqueeze(1)
                    grad_nv.mul_(log_p_nv.mul_(grad_entropy_N[tokens].unsqueeze(1)).add_(upstream_n1).neg_())
                inside_n, at_n1 = _position(ids_N[tokens], entries)
                grad_nv.scatter_add_(1, at_n1, torch.where(inside_n.unsqueeze(1), upstream_n1, 0.0))
                ctx.shape.backward_(grad_nv, z_nv)
                grad_bias_v += grad_nv.sum(0)
                grad_nv = grad_nv.to(hidden_NH.dtype)
                if grad_hidden_NH is not None:
                    _add_product(grad_hidden_NH[tokens], grad_nv, weight_vH)
                if grad_weight_vH is not None:
                    _add_product(grad_weight_vH, grad_nv.T, hidden_nH)
            if grad_weight_VH is not None and grad_weight_vH is not None:
                grad_weight_VH[entries] = grad_weight_vH
            if grad_bias_V is not None:
                grad_bias_V[entries] = grad_bias_v
        return (
            grad_hidden_NH.to(hidden_NH.dtype) if grad_hidden_NH is not None else None,
            grad_weight_VH,
            grad_bias_V,
            None,
            None,
            None,
        )


def _slices(length: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


def _logits(
    hidden_nH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, entries: slice, shape: LogitShape, dtype: torch.dtype
) -> Tensor:
    bias_v = None if bias_V is None else bias_V[entries]
    return shape.apply_(torch.nn.functional.linear(hidden_nH, weight_VH[entries], bias_v).to(dtype))


def _position(ids_n: Tensor, entries: slice) -> tuple[Tensor, Tensor]:
    """Whether each id is among the entries [n], and its column there [n, 1]; any column for those that are not."""
    at_n = ids_n - entries.start
    inside_n = (at_n >= 0) & (at_n < entries.stop - entries.start)
    return inside_n, torch.where(inside_n, at_n, 0).unsqueeze(1)


def _add_product(sum_: Tensor, a: Tensor, b: Tensor) -> None:
    """sum_ += a @ b, the sum being kept in its own, wider type."""
    if sum_.dtype == a.dtype:
        sum_.addmm_(a, b)
    else:
        sum_ += a @ b
