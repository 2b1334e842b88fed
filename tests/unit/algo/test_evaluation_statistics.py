"""The statistics of an evaluation against their definitions, and on data whose answer is known."""

from __future__ import annotations

import random
import statistics
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncline.algo.evaluation import (
    Estimate,
    length_controlled_win_rate,
    length_normalized,
    mean_score,
    pass_at,
    pass_at_sizes,
)
from tests.unit.algo import slow_evaluation

graded = st.lists(st.lists(st.floats(-10, 10), min_size=1, max_size=5), min_size=1, max_size=20)
binary = st.integers(1, 6).flatmap(
    lambda samples: st.lists(
        st.lists(st.sampled_from([0.0, 1.0]), min_size=samples, max_size=samples), min_size=1, max_size=8
    )
)
comparisons = st.lists(
    st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.integers(-300, 300)), min_size=1, max_size=3),
    min_size=1,
    max_size=8,
)
lengths = st.floats(1, 4096)


def interval(found: Estimate) -> tuple[float, float]:
    assert found.low is not None
    assert found.high is not None
    return found.low, found.high


# ---- means and their intervals


@given(graded)
@settings(deadline=None)
def test_the_mean_counts_every_prompt_once_whatever_its_number_of_samples(scores: list[list[float]]) -> None:
    found = mean_score(scores)
    assert found.mean == pytest.approx(statistics.fmean(statistics.fmean(row) for row in scores), abs=1e-9)
    if len(scores) == 1:
        assert (found.low, found.high) == (None, None), "one prompt says nothing of other prompts"
    else:
        low, high = interval(found)
        if any(len(row) > 1 or row[0] not in (0, 1) for row in scores):  # else Wilson's, which is wider
            assert min(map(min, scores)) - 1e-9 <= low <= high <= max(map(max, scores)) + 1e-9


@given(graded)
@settings(deadline=None)
def test_equal_data_have_equal_intervals(scores: list[list[float]]) -> None:
    assert mean_score(scores) == mean_score(scores)


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = random.Random(1)
    trials, truth = 200, 0.3
    held = 0
    for _ in range(trials):
        low, high = interval(mean_score([[float(rng.random() < truth)] for _ in range(60)]))
        held += low <= truth <= high
    # 95 % of 200 with a standard deviation of 3.1
    assert 180 <= held <= 199


@given(st.integers(2, 400), st.data())
def test_one_right_or_wrong_answer_a_prompt_has_wilsons_interval(prompts: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, prompts))
    found = mean_score([[1.0]] * right + [[0.0]] * (prompts - right))
    assert interval(found) == pytest.approx(slow_evaluation.wilson(right, prompts), abs=1e-9)
    assert found.mean == right / prompts


def test_none_right_of_fifty_does_not_say_that_it_is_never_right() -> None:
    assert interval(mean_score([[0.0]] * 50)) == (0.0, pytest.approx(0.0714, abs=1e-4))
    assert interval(mean_score([[1.0]] * 50)) == (pytest.approx(0.9286, abs=1e-4), 1.0)


def test_the_interval_holds_the_truth_near_its_ends_too() -> None:
    rng = random.Random(2)
    truth, held = 0.03, 0
    for _ in range(400):
        low, high = interval(mean_score([[float(rng.random() < truth)] for _ in range(50)]))
        held += low <= truth <= high
    assert held >= 0.9 * 400, "the bootstrap held it in 78 %"


@given(st.lists(st.lists(st.sampled_from([0.0, 1.0]), min_size=2, max_size=2), min_size=2, max_size=8))
@settings(deadline=None)
def test_more_answers_a_prompt_have_the_bootstrap_which_knows_that_they_hang_together(rows: list[list[float]]) -> None:
    low, high = interval(mean_score(rows))
    assert min(map(min, rows)) <= low <= high <= max(map(max, rows))


def test_the_interval_is_as_wide_as_the_normal_one_and_more_samples_of_a_prompt_are_no_more_prompts() -> None:
    twice = [[1.0, 1.0]] * 120 + [[0.0, 0.0]] * 80
    found, repeated = mean_score(twice), mean_score([row * 25 for row in twice])
    low, high = interval(found)
    assert high - low == pytest.approx(2 * 1.96 * (0.6 * 0.4 / 200) ** 0.5, rel=0.08)
    assert repeated == found


def test_nothing_scored_has_no_mean() -> None:
    with pytest.raises(ValueError, match="without a scored prompt"):
        mean_score([])
    with pytest.raises(ValueError, match="without a scored prompt"):
        length_controlled_win_rate([], [])


# ---- pass@k


@given(binary, st.data())
def test_pass_at_k_is_the_share_of_all_picks_with_a_right_one(scores: list[list[float]], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(scores[0])))
    assert pass_at(scores, k) == pytest.approx(slow_evaluation.pass_at(scores, k))


@given(binary)
def test_pass_at_1_is_the_mean_and_more_picks_never_pass_less(scores: list[list[float]]) -> None:
    passed = [pass_at(scores, k) for k in range(1, len(scores[0]) + 1)]
    assert passed[0] == pytest.approx(mean_score(scores).mean)
    assert all(more >= fewer - 1e-12 for fewer, more in pairwise(passed))


def test_pass_at_more_than_there_are_samples_is_refused() -> None:
    for k in (0, 3):
        with pytest.raises(ValueError, match=f"pass@{k} needs"):
            pass_at([[1.0, 0.0]], k)


def test_the_reported_k_are_powers_of_two_and_all_samples() -> None:
    assert [pass_at_sizes(n) for n in (1, 2, 4, 6)] == [[1], [1, 2], [1, 2, 4], [1, 2, 4, 6]]


# ---- length-normalized scores


@given(st.floats(-100, 100), lengths, lengths, lengths)
def test_a_longer_answer_of_the_same_score_is_never_better(score: float, a: float, b: float, seed: float) -> None:
    short, long = sorted((a, b))
    at = [length_normalized(score, length=length, reference_length=seed) for length in (short, long)]
    assert at[0] >= at[1] - 1e-9


@given(st.floats(-100, 100), st.floats(-100, 100), lengths, lengths)
def test_a_higher_score_of_the_same_length_is_never_worse(a: float, b: float, length: float, seed: float) -> None:
    low, high = sorted((a, b))
    at = [length_normalized(score, length=length, reference_length=seed) for score in (low, high)]
    assert at[0] <= at[1] + 1e-9


@given(st.floats(-100, 100), lengths)
def test_at_the_reference_length_it_is_the_score(score: float, length: float) -> None:
    assert length_normalized(score, length=length, reference_length=length) == pytest.approx(score)


def test_positive_scores_are_ranked_as_by_the_papers_ratio_and_negative_ones_are_not_turned_over() -> None:
    def found(score: float, length: float) -> float:
        return length_normalized(score, length=length, reference_length=100)

    assert found(2.0, 50) > found(3.0, 100) > found(3.0, 120), "mean reward over mean length: 0.04, 0.03, 0.025"
    assert -1.0 / 200 > -1.0 / 100, "the plain ratio prefers the longer of two equally bad answers"
    assert found(-1.0, 200) < found(-1.0, 100) < found(-1.0, 50)


# ---- win rates


@given(comparisons)
@settings(deadline=None, max_examples=40)
def test_the_length_controlled_win_rate_is_the_fitted_one(rows: list[list[tuple[float, int]]]) -> None:
    won = [[outcome for outcome, _ in row] for row in rows]
    differences = [[float(difference) for _, difference in row] for row in rows]
    found = length_controlled_win_rate(won, differences)
    assert found.mean == pytest.approx(slow_evaluation.length_controlled_win_rate(won, differences), abs=1e-6)
    if len(rows) > 1:
        low, high = interval(found)
        assert 0 <= low <= high <= 1


def _judged(
    prompts: int, *, longer: float, better: float, by_length: float
) -> tuple[list[list[float]], list[list[float]]]:
    """Outcomes of a judge: better is the chance to win at equal length, by_length how far length decides instead."""
    rng = random.Random(7)
    won, differences = [], []
    for _ in range(prompts):
        difference = rng.gauss(longer, 100.0)
        chance = by_length * float(difference > 0) + (1 - by_length) * better
        won.append([float(rng.random() < chance)])
        differences.append([difference])
    return won, differences


def test_an_answer_that_wins_only_by_its_length_wins_half_when_length_is_taken_out() -> None:
    won, differences = _judged(800, longer=80.0, better=0.5, by_length=1.0)
    plain, controlled = mean_score(won), length_controlled_win_rate(won, differences)
    assert plain.mean > 0.75
    assert controlled.mean == pytest.approx(0.5, abs=0.1)
    assert interval(controlled)[0] < 0.5


def test_an_answer_that_wins_at_any_length_keeps_its_win_rate() -> None:
    won, differences = _judged(800, longer=80.0, better=0.8, by_length=0.0)
    plain, controlled = mean_score(won), length_controlled_win_rate(won, differences)
    assert controlled.mean == pytest.approx(plain.mean, abs=0.04)


def test_where_all_differences_are_equal_it_is_the_plain_win_rate() -> None:
    won = [[1.0], [0.5], [1.0], [0.0]]
    for difference in (0.0, 12.0):
        found = length_controlled_win_rate(won, [[difference]] * 4)
        assert found.mean == pytest.approx(0.625, abs=1e-6)


def test_all_won_is_a_win_rate_of_one() -> None:
    found = length_controlled_win_rate([[1.0]] * 30, [[float(n - 10)] for n in range(30)])
    assert found.mean == pytest.approx(1.0, abs=1e-4)
