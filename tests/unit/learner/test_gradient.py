"""The gradient of a step in parts: their norms, their sum, and what is clipped."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import Parameter

from services.learner.gradient import Gradient

numbers = st.floats(-10.0, 10.0, width=32)
parts_of_two = st.lists(st.tuples(*[st.none() | st.lists(numbers, min_size=3, max_size=3)] * 2), min_size=1, max_size=4)
"""What each part adds to two parameters; None is a parameter that the part's loss does not reach."""


def _backward(parameters: list[Parameter], part: tuple[list[float] | None, ...]) -> None:
    """In two passes, as micro-batches do."""
    for share in (0.25, 0.75):
        reached = [(p, wanted) for p, wanted in zip(parameters, part, strict=True) if wanted is not None]
        loss = sum(((share * torch.tensor(wanted) * p).sum() for p, wanted in reached), torch.zeros(()))
        if reached:
            loss.backward()  # type: ignore[no-untyped-call]


def _norm(values: list[float]) -> float:
    return math.sqrt(math.fsum(value * value for value in values))


@given(parts_of_two, st.floats(0.1, 20.0))
def test_parts_have_their_own_norms_and_their_sum_is_clipped(
    parts: list[tuple[list[float] | None, ...]], most: float
) -> None:
    parameters = [Parameter(torch.zeros(3)) for _ in range(2)]
    parameters[0].grad = torch.full((3,), 1e6)  # left by a step that was stopped
    gradient = Gradient(parameters)
    norms = []
    for part in parts:
        _backward(parameters, part)
        norms.append(gradient.end_part())
    norm = gradient.clip(most)

    reached = [[values for values in part if values is not None] for part in parts]
    for found, values in zip(norms, reached, strict=True):
        assert math.isclose(found, _norm([v for one in values for v in one]), rel_tol=1e-4, abs_tol=1e-4)
    sums = [
        [math.fsum(part[i][k] for part in parts if part[i] is not None) for k in range(3)]  # type: ignore[index]
        for i in range(2)
    ]
    assert math.isclose(norm, _norm(sums[0] + sums[1]), rel_tol=1e-4, abs_tol=1e-4)
    scale = min(1.0, most / (norm + 1e-6))
    for i, parameter in enumerate(parameters):
        if all(part[i] is None for part in parts):
            assert parameter.grad is None
        else:
            torch.testing.assert_close(_grad(parameter), torch.tensor(sums[i]) * scale, rtol=1e-4, atol=1e-4)


def _grad(parameter: Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad
