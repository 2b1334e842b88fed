"""Pair rules: what is preferred over what, and why nothing is."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.algo.pairs import PAIR_RULES, AllPairs, BestVsWorst, Pair, RandomPair, build_pair_rule

binary_rewards = st.lists(st.sampled_from([0.0, 1.0]), min_size=2, max_size=8)
scores = st.lists(st.floats(-10, 10), min_size=2, max_size=8)


@given(binary_rewards, st.integers(0, 2**32))
def test_a_random_pair_is_one_correct_and_one_incorrect_or_names_why_not(rewards: list[float], seed: int) -> None:
    pairing = RandomPair().one(rewards, Random(seed))
    if 0.0 in rewards and 1.0 in rewards:
        (pair,) = pairing.pairs
        assert (rewards[pair.chosen], rewards[pair.rejected], pairing.cause) == (1.0, 0.0, "")
    else:
        assert pairing.pairs == ()
        assert pairing.cause == ("all_correct" if rewards[0] else "all_wrong")


def test_a_random_pair_depends_on_the_seed_alone_and_reaches_every_pair() -> None:
    rewards = [1.0, 0.0, 1.0, 0.0]
    drawn = [RandomPair().one(rewards, Random(seed)).pairs for seed in range(200)]
    assert drawn == [RandomPair().one(rewards, Random(seed)).pairs for seed in range(200)]
    assert set(drawn) == {(Pair(0, 1),), (Pair(0, 3),), (Pair(2, 1),), (Pair(2, 3),)}


def test_random_pairs_of_graded_rewards_are_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"7\.5.*best_vs_worst"):
        RandomPair().one([7.5, 1.0], Random(0))


@given(scores, st.floats(0, 5))
def test_best_against_worst_takes_the_extremes_when_they_are_far_enough_apart(
    rewards: list[float], margin: float
) -> None:
    pairing = BestVsWorst(min_margin=margin).one(rewards, Random(0))
    if max(rewards) - min(rewards) > margin:
        (pair,) = pairing.pairs
        assert (rewards[pair.chosen], rewards[pair.rejected]) == (max(rewards), min(rewards))
    else:
        assert pairing.pairs == ()
        assert pairing.cause == ("tied" if max(rewards) == min(rewards) else "below_margin")


@given(scores, st.floats(0, 5))
def test_every_pair_of_graded_rewards_is_further_apart_than_the_margin(rewards: list[float], margin: float) -> None:
    pairing = BestVsWorst(min_margin=margin).every(rewards)
    wanted = {(i, j) for i in range(len(rewards)) for j in range(len(rewards)) if rewards[i] - rewards[j] > margin}
    assert {(pair.chosen, pair.rejected) for pair in pairing.pairs} == wanted
    assert bool(pairing.pairs) != bool(pairing.cause)


@given(scores, st.floats(0, 5))
def test_the_rule_of_all_pairs_has_no_one_pair(rewards: list[float], margin: float) -> None:
    rule = AllPairs(min_margin=margin)
    assert rule.one(rewards, Random(0)) == rule.every(rewards) == BestVsWorst(min_margin=margin).every(rewards)


@given(binary_rewards)
def test_all_correct_times_all_incorrect_is_the_same_by_either_rule(rewards: list[float]) -> None:
    by_answer, by_margin = RandomPair().every(rewards), BestVsWorst().every(rewards)
    assert by_answer.pairs == by_margin.pairs
    assert len(by_answer.pairs) == rewards.count(1.0) * rewards.count(0.0)


def test_rules_are_built_from_the_options_of_a_task() -> None:
    assert build_pair_rule({"type": "best_vs_worst", "min_margin": 0.5}) == BestVsWorst(min_margin=0.5)
    assert build_pair_rule({"type": "all", "min_margin": 0.5}) == AllPairs(min_margin=0.5)
    assert set(PAIR_RULES) == {"random", "best_vs_worst", "all"}
