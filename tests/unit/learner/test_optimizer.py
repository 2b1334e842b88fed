"""The learning rate as a function of the step."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.learner.optimizer import COSINE_FLOOR, learning_rate
from syncline.run_parts import Optimizer


def test_it_warms_up_and_stays() -> None:
    spec = Optimizer(lr=1.0, warmup_steps=4)
    assert [learning_rate(spec, step=step, steps=8) for step in range(8)] == [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]


@given(steps=st.integers(2, 200), warmup=st.integers(0, 10))
def test_a_cosine_falls_from_the_rate_to_its_floor_and_never_rises(steps: int, warmup: int) -> None:
    spec = Optimizer(lr=2.0, warmup_steps=warmup, schedule="cosine")
    rates = [learning_rate(spec, step=step, steps=steps) for step in range(warmup, steps)]
    assert rates == sorted(rates, reverse=True)
    assert all(2.0 * COSINE_FLOOR <= rate <= 2.0 for rate in rates)
    if rates:
        assert rates[0] == pytest.approx(2.0)
