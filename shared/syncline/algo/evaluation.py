"""What an evaluation says: means with intervals, pass@k, and scores with the length of the answers taken out.

Pure numpy: the coordinator, which has no torch, calls it. Scores are rows of samples, one row a prompt. Prompts are
what is drawn from a population, so an interval comes from drawing prompts anew; the samples of a prompt stay together.
Where each prompt has one sample that is right or wrong, it is Wilson's interval: near 0 and 1 the drawn prompts hardly
differ, and of none right in fifty they would say that it is never right.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
CONFIDENCE = 0.95

_CELLS_AT_ONCE = 1 << 20  # of the matrices below: bounds memory, not results
_SLOPE_RIDGE = (
    1.0  # a standard normal prior on the effect of length: keeps it finite when the longer answer always wins
)
_LEVEL_RIDGE = 1e-6  # keeps "won all" finite and leaves everything else alone
_MOST_ITERATIONS = 100

Scores = Sequence[Sequence[float]]
"""[prompt][sample]; every prompt has at least one sample."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean and its 95 % interval, Wilson's or of the percentile bootstrap; one prompt alone has none."""

    mean: float
    low: float | None
    high: float | None


def mean_score(scores: Scores) -> Estimate:
    """Mean over prompts of each prompt's mean: pass@1 where scores are 0 and 1.

    With Wilson's interval where each prompt has one sample of 0 or 1, else with the percentile bootstrap over prompts.
    Raises ValueError without a prompt.
    """
    means = _prompt_means(scores)
    if len(means) > 1 and all(len(row) == 1 and row[0] in (0, 1) for row in scores):
        return _wilson(right=int(means.sum()), prompts=len(means))
    return _estimate(float(means.mean()), [means[drawn].mean(axis=1) for drawn in _resamples(len(means))])


def pass_at(scores: Scores, k: int) -> float:
    """Chance that at least one of k samples of a prompt is right (above 0), averaged over prompts.

    Unbiased for any k up to the samples there are: 1 - C(n - c, k) / C(n, k) for c of n right (Chen et al. 2021,
    arXiv 2107.03374, equation 1). Raises ValueError when a prompt has fewer than k samples.
    """
    if not scores or not 1 <= k <= min(len(row) for row in scores):
        raise ValueError(f"pass@{k} needs at least {k} samples of every prompt")
    chances = []
    for row in scores:
        wrong = sum(score <= 0 for score in row)
        chances.append(1.0 - math.comb(wrong, k) / math.comb(len(row), k))
    return math.fsum(chances) / len(chances)


def pass_at_sizes(samples: int) -> list[int]:
    """The k that are reported: 1, 2, 4, ... and all samples."""
    powers = [1 << power for power in range(samples.bit_length())]
    return sorted({*powers, samples})


def length_normalized(score: float, *, length: float, reference_length: float) -> float:
    """A mean score as if answers were as long as the reference's: longer is never better by itself.

    score x reference / length for scores from 0 up: the paper's mean reward over mean length (section 3.1), but for a
    constant factor. That ratio rises with length when rewards are negative, so below 0 the factor is turned over:
    score x length / reference. Either way it rises with the score, falls with the length, and is the score itself at
    the reference's length. The zero of the score matters, as in the paper; a reward model's zero is a convention.
    Lengths are mean tokens and count as at least one.
    """
    ratio = max(length, 1.0) / max(reference_length, 1.0)
    return score / ratio if score >= 0 else score * ratio


def length_controlled_win_rate(won: Scores, length_differences: Scores) -> Estimate:
    """Win rate that is left when both answers are equally long.

    `won` are shares of comparisons won, in [0, 1]; `length_differences` are tokens of the answer minus those of its
    opponent. A logistic regression of the outcome on tanh(difference / standard deviation) is read off at difference 0:
    the idea of AlpacaEval 2 (Dubois et al. 2024, arXiv 2404.04475) without its terms for models and instructions. The
    effect of length has a standard normal prior. Where all differences are equal nothing can be told apart, and it is
    the plain win rate. Raises ValueError without a prompt.
    """
    differences = [np.asarray(row, dtype=np.float64) for row in length_differences]
    spread = float(np.concatenate(differences).std()) if differences else 0.0
    # Every sample of a prompt weighs 1 / samples, so that every prompt weighs the same.
    outcomes = _padded([np.asarray(row, dtype=np.float64) for row in won])
    lengths = _padded([np.tanh(row / spread) if spread > 0 else np.zeros_like(row) for row in differences])
    weights = _padded([np.full(len(row), 1 / len(row)) for row in won])

    def fitted(prompts: NDArray[np.int64]) -> Floats:
        flat = (len(prompts), -1)
        return _level(outcomes[prompts].reshape(flat), lengths[prompts].reshape(flat), weights[prompts].reshape(flat))

    whole = fitted(np.arange(len(won))[None])
    return _estimate(float(whole[0]), [fitted(drawn) for drawn in _resamples(len(won), width=outcomes.shape[1])])


def _level(won_BN: Floats, length_BN: Floats, weight_BN: Floats) -> Floats:
    """Fitted win probability at length 0 of B weighted logistic regressions, by Newton's method."""
    level, slope = np.zeros((2, len(won_BN), 1))
    for _ in range(_MOST_ITERATIONS):
        p = 1.0 / (1.0 + np.exp(-(level + slope * length_BN)))
        error, curve = weight_BN * (won_BN - p), weight_BN * p * (1 - p)
        g_level = error.sum(axis=1, keepdims=True) - _LEVEL_RIDGE * level
        g_slope = (error * length_BN).sum(axis=1, keepdims=True) - _SLOPE_RIDGE * slope
        h_level = curve.sum(axis=1, keepdims=True) + _LEVEL_RIDGE
        h_both = (curve * length_BN).sum(axis=1, keepdims=True)
        h_slope = (curve * length_BN**2).sum(axis=1, keepdims=True) + _SLOPE_RIDGE
        determinant = h_level * h_slope - h_both**2
        by_level = np.clip((h_slope * g_level - h_both * g_slope) / determinant, -2.0, 2.0)
        by_slope = np.clip((h_level * g_slope - h_both * g_level) / determinant, -2.0, 2.0)
        level, slope = level + by_level, slope + by_slope
        if max(np.abs(by_level).max(), np.abs(by_slope).max()) < 1e-9:
            break
    result: Floats = 1.0 / (1.0 + np.exp(-level[:, 0]))
    return result


def _prompt_means(scores: Scores) -> Floats:
    if not scores:
        raise ValueError("an evaluation without a scored prompt has no mean")
    return np.array([math.fsum(row) / len(row) for row in scores])


def _padded(rows: Sequence[Floats]) -> Floats:
    """Rows of different lengths as one matrix, with zeros (of weight 0) behind the shorter ones."""
    if not rows:
        raise ValueError("an evaluation without a scored prompt has no win rate")
    matrix = np.zeros((len(rows), max(len(row) for row in rows)))
    for index, row in enumerate(rows):
        matrix[index, : len(row)] = row
    return matrix


def _resamples(prompts: int, *, width: int = 1) -> Iterator[NDArray[np.int64]]:
    """RESAMPLES rows of prompt indices, drawn with replacement, a few rows at a time; the same ones at every call."""
    rng = np.random.default_rng(0)
    left = RESAMPLES if prompts > 1 else 0
    while left:
        rows = min(left, max(1, _CELLS_AT_ONCE // (prompts * width)))
        yield rng.integers(0, prompts, size=(rows, prompts))
        left -= rows


def _wilson(*, right: int, prompts: int) -> Estimate:
    """The proportions that a test with their own variance would not reject (Wilson 1927, JASA 22, 209-212)."""
    mean, z_squared = right / prompts, NormalDist().inv_cdf((1 + CONFIDENCE) / 2) ** 2
    middle = (mean + z_squared / (2 * prompts)) / (1 + z_squared / prompts)
    reach = math.sqrt(z_squared * (mean * (1 - mean) + z_squared / (4 * prompts)) / prompts) / (1 + z_squared / prompts)
    # At none and at all of them an end is exact, but for rounding.
    return Estimate(
        mean, max(0.0, middle - reach) if right else 0.0, min(1.0, middle + reach) if right < prompts else 1.0
    )


def _estimate(mean: float, resampled: Sequence[Floats]) -> Estimate:
    if not resampled:
        return Estimate(mean, None, None)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.concatenate(resampled), [tail, 1 - tail])
    return Estimate(mean, float(low), float(high))
