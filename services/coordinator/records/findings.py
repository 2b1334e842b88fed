"""What an evaluation found, as one row for people. Pure.

The names of its fields are used everywhere: REST, events, summary.json, the command line and the page.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

from services.coordinator.records.answers import Answer, AnsweredPrompt
from syncline.algo.evaluation import (
    length_controlled_win_rate,
    length_normalized,
    mean_score,
    pass_at,
    pass_at_sizes,
)
from syncline.rewardspec import JudgeSpec, RewardSpec
from syncline.run_parts import Best, Evaluation

Measure = Literal["accuracy", "win_rate", "score"]


def compares_with_seed(reward: RewardSpec) -> bool:
    """Whether the reward is the share of comparisons won against the seed model's answers."""
    return isinstance(reward, JudgeSpec) and reward.mode == "versus_seed"


def measure_of(reward: RewardSpec) -> Measure:
    """What the mean of a reward's scores is called."""
    if not reward.graded:
        return "accuracy"
    return "win_rate" if compares_with_seed(reward) and not reward.shaping else "score"


def found(
    evaluation: Evaluation,
    *,
    version: int,
    prompts: Sequence[AnsweredPrompt],
    seed: Mapping[int, AnsweredPrompt],
    dropped: Mapping[int, str],
    seconds: float,
    finished_at: float,
) -> dict[str, Any]:
    """The row of one set on one version.

    score: {mean, low, high}, null when nothing was scored; `prompts` counts those with a score. pass_at: k -> pass@k,
    empty for graded rewards. win_rate and win_rate_length_controlled: {mean, low, high} against the seed's answers,
    else null. length_mean: tokens. length_normalized: the mean score as if answers were as long as the seed's. `seed`
    is what version 0 answered.
    """
    prompts = sorted(
        prompts, key=lambda prompt: prompt.prompt_index
    )  # the bootstrap must not depend on who answered first
    scores = _numbers([[sample.score for sample in prompt.samples] for prompt in prompts])
    lengths = [sample.tokens for prompt in prompts for sample in prompt.samples]
    seed_lengths = [sample.tokens for prompt in seed.values() for sample in prompt.samples]
    score = mean_score(scores) if scores else None
    length = statistics.fmean(lengths) if lengths else None
    normalized = None
    if score is not None and length is not None and seed_lengths:
        reference = statistics.fmean(seed_lengths)
        normalized = length_normalized(score.mean, length=length, reference_length=reference)
    return {
        "name": evaluation.name,
        "version": version,
        "measure": measure_of(evaluation.reward),
        "temperature": evaluation.temperature,
        "score": asdict(score) if score else None,
        "pass_at": _pass_at(evaluation, prompts),
        **_win_rates(evaluation, prompts, seed),
        "length_mean": length,
        "length_normalized": normalized,
        "prompts": len(scores),
        "samples": len(lengths),
        "verdicts": dict(Counter(sample.verdict for prompt in prompts for sample in prompt.samples)),
        "dropped": dict(Counter(dropped.values())),
        "seconds": seconds,
        "finished_at": finished_at,
    }


def value_of(row: Mapping[str, Any], metric: str) -> float | None:
    """A row's value of a metric that can choose the best checkpoint; None where it has none."""
    found: float | None
    if metric == "score":
        found = row["score"] and row["score"]["mean"]
    elif metric == "pass_at_k":
        found = row["pass_at"][max(row["pass_at"], key=int)] if row["pass_at"] else None
    else:
        found = row[metric]
    return found


def best_row(rows: Sequence[Mapping[str, Any]], best: Best) -> Mapping[str, Any] | None:
    """The row with the highest value; of equal ones that of the oldest version: the later updates won nothing."""
    ranked = [row for row in rows if row["name"] == best.evaluation and value_of(row, best.metric) is not None]
    return max(ranked, key=lambda row: (value_of(row, best.metric), -row["version"]), default=None)


def _outcome(reward: RewardSpec, sample: Answer) -> float | None:
    """Right or wrong, won or lost, as the verifier or judge said before any shaping."""
    return sample.raw_score if reward.shaping and sample.score is not None else sample.score


def _numbers(rows: Iterable[Iterable[float | None]]) -> list[list[float]]:
    """What has a number, by prompt; prompts without any are left out."""
    kept = ([value for value in row if value is not None] for row in rows)
    return [row for row in kept if row]


def _pass_at(evaluation: Evaluation, prompts: Sequence[AnsweredPrompt]) -> dict[str, float]:
    reward = evaluation.reward
    scores = _numbers([_outcome(reward, sample) for sample in prompt.samples] for prompt in prompts)
    if not reward.binary or not scores:
        return {}
    return {str(k): pass_at(scores, k) for k in pass_at_sizes(min(map(len, scores)))}


def _win_rates(
    evaluation: Evaluation, prompts: Sequence[AnsweredPrompt], seed: Mapping[int, AnsweredPrompt]
) -> dict[str, Any]:
    won: list[list[float]] = []
    longer: list[list[float]] = []
    if compares_with_seed(evaluation.reward):
        for prompt in prompts:
            compared = [
                (outcome, float(ours.tokens - theirs.tokens))
                for ours, theirs in zip(prompt.samples, seed[prompt.prompt_index].samples, strict=True)
                if (outcome := _outcome(evaluation.reward, ours)) is not None
            ]
            if compared:
                won.append([outcome for outcome, _ in compared])
                longer.append([difference for _, difference in compared])
    if not won:
        return {"win_rate": None, "win_rate_length_controlled": None}
    return {
        "win_rate": asdict(mean_score(won)),
        "win_rate_length_controlled": asdict(length_controlled_win_rate(won, longer)),
    }
