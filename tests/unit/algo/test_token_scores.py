"""Token log-probabilities and entropies in slices."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from syncline.algo.logprobs import token_scores

shapes = st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(2, 9))


def _logits(shape: tuple[int, int, int], seed: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(shape, generator=generator, dtype=torch.float64) * 3
    ids = torch.randint(shape[2], shape[:2], generator=generator)
    return logits.to(dtype).requires_grad_(), ids


@given(shapes, st.integers(0, 1000), st.integers(1, 64))
@settings(max_examples=50, deadline=None)
def test_values_are_those_of_a_plain_log_softmax(shape: tuple[int, int, int], seed: int, chunk_elements: int) -> None:
    logits, ids = _logits(shape, seed, torch.float64)
    log_probs, entropy = token_scores(logits, ids, chunk_elements=chunk_elements)
    plain = logits.log_softmax(-1)
    torch.testing.assert_close(log_probs, plain.gather(-1, ids[..., None])[..., 0])
    torch.testing.assert_close(entropy, -(plain.exp() * plain).sum(-1))


@pytest.mark.parametrize("chunk_elements", [1, 40, 10_000])
def test_gradients_are_those_of_finite_differences(chunk_elements: int) -> None:
    logits, ids = _logits((2, 5, 7), 0, torch.float64)
    assert torch.autograd.gradcheck(lambda x: token_scores(x, ids, chunk_elements=chunk_elements), (logits,))


def test_bfloat16_logits_are_scored_in_float32_and_get_a_bfloat16_gradient() -> None:
    logits, ids = _logits((2, 3, 11), 1, torch.bfloat16)
    log_probs, entropy = token_scores(logits, ids)
    assert log_probs.dtype == entropy.dtype == torch.float32
    torch.testing.assert_close(log_probs, logits.float().log_softmax(-1).gather(-1, ids[..., None])[..., 0])
    (log_probs.sum() + entropy.sum()).backward()
    assert logits.grad is not None
    assert logits.grad.dtype == torch.bfloat16


def test_tokens_that_cannot_be_sampled_leave_entropy_and_gradient_finite() -> None:
    logits = torch.tensor([[[0.0, 0.0, -torch.inf]]], dtype=torch.float64, requires_grad=True)
    log_probs, entropy = token_scores(logits, torch.tensor([[0]]))
    torch.testing.assert_close(entropy, torch.log(torch.tensor([[2.0]], dtype=torch.float64)))
    (log_probs + entropy).sum().backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[[0.5, -0.5, 0.0]]], dtype=torch.float64))


def test_nothing_is_asked_of_the_entropy_when_only_log_probabilities_are_used() -> None:
    logits, ids = _logits((2, 4, 5), 2, torch.float64)
    log_probs, _ = token_scores(logits, ids)
    log_probs.sum().backward()
    plain = logits.detach().clone().requires_grad_()
    plain.log_softmax(-1).gather(-1, ids[..., None]).sum().backward()
    torch.testing.assert_close(logits.grad, plain.grad)
