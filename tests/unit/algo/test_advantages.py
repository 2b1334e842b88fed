"""Group-relative advantages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.algo.advantages import group_advantages
from tests.unit.algo import slow_losses

groups = st.lists(st.floats(-100, 100), min_size=2, max_size=16)


@given(groups, st.booleans())
def test_advantages_are_those_of_the_formula_and_sum_to_zero(rewards: list[float], scale: bool) -> None:
    found = group_advantages(rewards, scale=scale)
    assert found == pytest.approx(slow_losses.advantages(rewards, scale=scale), rel=1e-6, abs=1e-6)
    assert sum(found) == pytest.approx(0.0, abs=1e-6)


@given(st.floats(-100, 100), st.integers(2, 16), st.booleans())
def test_a_tied_group_has_advantages_of_exactly_zero(reward: float, size: int, scale: bool) -> None:
    assert group_advantages([reward] * size, scale=scale) == (0.0,) * size
