"""Pauses between attempts."""

from __future__ import annotations

from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from syncline.backoff import Backoff


def test_pauses_double_up_to_the_longest() -> None:
    backoff = Backoff(first_s=0.5, longest_s=3.0)
    assert list(islice(backoff.pauses(), 5)) == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert next(backoff.pauses()) == 0.5


@given(jitter=st.floats(0.0, 1.0))
def test_jitter_only_ever_shortens_a_pause(jitter: float) -> None:
    pauses = list(islice(Backoff(first_s=1.0, longest_s=4.0, jitter=jitter).pauses(), 4))
    for pause_s, whole_s in zip(pauses, [1.0, 2.0, 4.0, 4.0], strict=True):
        assert (1.0 - jitter) * whole_s <= pause_s <= whole_s
