"""Token log-probabilities and entropies straight from hidden states, in tiles."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from syncline.algo.logprobs import LogitShape, Tile, token_scores

sizes = st.tuples(st.integers(1, 9), st.integers(1, 4), st.integers(2, 9))
tiles = st.builds(Tile, tokens=st.integers(1, 12), vocabulary=st.integers(1, 12))
logit_shapes = st.builds(LogitShape, scale=st.sampled_from([1.0, 0.5]), softcap=st.sampled_from([None, 2.0]))


def _layer(
    tokens: int, hidden: int, vocabulary: int, *, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states, weight and bias as leaves, and ids."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for shape in ((tokens, hidden), (vocabulary, hidden), (vocabulary,))
    ]
    return drawn[0], drawn[1], drawn[2], torch.randint(vocabulary, (tokens,), generator=generator)


def _plain(hidden: Tensor, weight: Tensor, bias: Tensor, ids: Tensor, shape: LogitShape) -> tuple[Tensor, Tensor]:
    logits = (hidden @ weight.T + bias) * shape.scale
    if shape.softcap is not None:
        logits = shape.softcap * torch.tanh(logits / shape.softcap)
    log_p = logits.log_softmax(-1)
    return log_p.gather(-1, ids[:, None])[:, 0], -(log_p.exp() * log_p).sum(-1)


@given(sizes, st.integers(0, 1000), tiles, logit_shapes)
@settings(max_examples=100, deadline=None)
def test_values_and_gradients_are_those_of_a_plain_log_softmax(
    size: tuple[int, int, int], seed: int, tile: Tile, shape: LogitShape
) -> None:
    found = []
    for tiled in (True, False):
        hidden, weight, bias, ids = _layer(*size, seed=seed)
        scores = (
            token_scores(hidden, weight, ids, bias_V=bias, shape=shape, tile=tile)
            if tiled
            else _plain(hidden, weight, bias, ids, shape)
        )
        (2.0 * scores[0].sum() - (scores[1] ** 2).sum()).backward()
        found.append((*scores, hidden.grad, weight.grad, bias.grad))
    for ours, plain in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize("tile", [Tile(1, 1), Tile(2, 3), Tile()])
@pytest.mark.parametrize("shape", [LogitShape(), LogitShape(scale=0.7, softcap=3.0)])
def test_gradients_are_those_of_finite_differences(tile: Tile, shape: LogitShape) -> None:
    hidden, weight, bias, ids = _layer(5, 3, 7)
    assert torch.autograd.gradcheck(
        lambda h, w, b: token_scores(h, w, ids, bias_V=b, shape=shape, tile=tile), (hidden, weight, bias)
    )


def test_logits_of_any_size_overflow_nowhere() -> None:
    hidden, weight, bias, ids = _layer(4, 3, 6, dtype=torch.float32)
    log_probs, entropy = token_scores(1e4 * hidden, weight, ids, bias_V=bias, tile=Tile(2, 2))
    (log_probs.sum() + entropy.sum()).backward()
    for tensor in (log_probs, entropy, hidden.grad, weight.grad):
        assert tensor is not None
        assert torch.isfinite(tensor).all()
    assert (log_probs <= 0.0).all()
    assert (entropy > -1e-5).all()


def test_a_bfloat16_layer_is_scored_in_float32_and_gets_bfloat16_gradients() -> None:
    hidden, weight, _, ids = _layer(6, 4, 11, dtype=torch.bfloat16)
    log_probs, entropy = token_scores(hidden, weight, ids, tile=Tile(2, 4))
    assert log_probs.dtype == entropy.dtype == torch.float32
    plain = torch.nn.functional.linear(hidden, weight).float().log_softmax(-1).gather(-1, ids[:, None])[:, 0]
    torch.testing.assert_close(log_probs, plain, rtol=0, atol=0.05)
    (log_probs.sum() + entropy.sum()).backward()
    for leaf in (hidden, weight):
        assert leaf.grad is not None
        assert leaf.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("trained", ["hidden", "weight"])
def test_a_frozen_side_gets_no_gradient(trained: str) -> None:
    hidden, weight, _, ids = _layer(4, 3, 5)
    (weight if trained == "hidden" else hidden).requires_grad_(False)
    log_probs, _ = token_scores(hidden, weight, ids)
    log_probs.sum().backward()
    assert (hidden.grad is None, weight.grad is None) == ((False, True) if trained == "hidden" else (True, False))


def test_no_tokens_give_no_scores_and_a_gradient_of_zero() -> None:
    hidden, weight, _, ids = _layer(4, 3, 5)
    log_probs, entropy = token_scores(hidden[:0], weight, ids[:0])
    (log_probs.sum() + entropy.sum()).backward()
    assert weight.grad is not None
    assert not weight.grad.any()


def test_no_tensor_of_tokens_times_vocabulary_ever_exists() -> None:
    tokens, vocabulary = 60, 70
    hidden, weight, _, ids = _layer(tokens, 4, vocabulary)
    with _Largest() as seen:
        log_probs, entropy = token_scores(hidden, weight, ids, tile=Tile(8, 16))
        (log_probs.sum() + entropy.sum()).backward()
    assert seen.elements == weight.numel() < tokens * vocabulary


class _Largest(TorchDispatchMode):
    """Elements of the largest tensor that any operation makes, in the forward pass or in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        made = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, tuple | list) else [made]:
            if isinstance(one, Tensor):
                self.elements = max(self.elements, one.numel())
        return made
