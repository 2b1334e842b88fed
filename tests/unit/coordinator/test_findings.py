"""What an evaluation's row says, and which row is the best one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from services.coordinator.records.answers import Answer, AnsweredPrompt
from services.coordinator.records.findings import best_row, found, value_of
from syncline.algo import evaluation as statistics
from syncline.run_parts import Best, Evaluation

JUDGE = {"type": "judge", "mode": "versus_seed", "endpoint": "http://127.0.0.1:9/v1", "model": "m"}
SHAPED = {"type": "math", "shaping": [{"type": "length", "per_token": 0.01}]}


def prompt(
    index: int, scores: Sequence[float | None], *, tokens: int = 10, raw: list[float] | None = None
) -> AnsweredPrompt:
    samples = [
        Answer(
            completion="7",
            tokens=tokens,
            finish="stop",
            score=score,
            raw_score=before or 0.0,
            verdict="scored",
            cause="",
        )
        for score, before in zip(scores, raw or scores, strict=True)
    ]
    return AnsweredPrompt(prompt_index=index, prompt="3+4=", answer="7", samples=samples)


def row_of(
    *prompts: AnsweredPrompt,
    seed: tuple[AnsweredPrompt, ...] = (),
    version: int = 5,
    dropped: dict[int, str] | None = None,
    **fields: Any,
) -> dict[str, Any]:
    evaluation = Evaluation.model_validate({"name": "heldout", "data": "x.jsonl", **fields})
    return found(
        evaluation,
        version=version,
        prompts=list(prompts),
        seed={one.prompt_index: one for one in seed},
        dropped=dropped or {},
        seconds=1.0,
        finished_at=2.0,
    )


def test_a_right_or_wrong_set_has_an_accuracy_with_an_interval_and_pass_at_k() -> None:
    row = row_of(prompt(0, [1, 0, 0, 0]), prompt(1, [1, 1, 1, 1]), prompt(2, [0, 0, 0, 0]), samples=4)
    assert row["measure"] == "accuracy"
    assert row["score"]["mean"] == pytest.approx(1.25 / 3)
    assert row["score"]["low"] < row["score"]["mean"] < row["score"]["high"]
    assert row["pass_at"] == pytest.approx({"1": 1.25 / 3, "2": 1.5 / 3, "4": 2 / 3})
    assert (row["win_rate"], row["win_rate_length_controlled"]) == (None, None)
    assert (row["prompts"], row["samples"], row["length_mean"]) == (3, 12, 10)


def test_shaping_changes_the_score_and_not_what_is_right() -> None:
    row = row_of(prompt(0, [0.9, -0.1], raw=[1, 0]), samples=2, reward=SHAPED)
    assert row["measure"] == "score"
    assert row["score"]["mean"] == pytest.approx(0.4)
    assert row["pass_at"] == {"1": 0.5, "2": 1.0}


def test_the_length_normalized_score_compares_with_the_seeds_length() -> None:
    row = row_of(prompt(0, [1.0], tokens=20), prompt(1, [0.0], tokens=20), seed=(prompt(0, [0.0], tokens=10),))
    assert row["length_normalized"] == statistics.length_normalized(0.5, length=20, reference_length=10) == 0.25


def test_a_judged_set_has_win_rates_plain_and_length_controlled() -> None:
    ours = [prompt(index, [1.0 if index % 4 else 0.0], tokens=30 if index % 4 else 8) for index in range(40)]
    seed = tuple(prompt(index, [0.5], tokens=12) for index in range(40))
    row = row_of(*ours, seed=seed, reward=JUDGE)
    assert row["measure"] == "win_rate"
    assert row["win_rate"] == row["score"]
    assert row["win_rate"]["mean"] == 0.75
    differences = [[18.0] if index % 4 else [-4.0] for index in range(40)]
    won = [[sample.score for sample in one.samples] for one in ours]
    assert row["win_rate_length_controlled"]["mean"] == pytest.approx(
        statistics.length_controlled_win_rate(won, differences).mean
    )
    assert row["win_rate_length_controlled"]["mean"] < 0.75, "only longer answers won"
    assert row["pass_at"] == {}


def test_a_sample_without_a_number_counts_in_no_mean() -> None:
    ours = [prompt(0, [1.0, None]), prompt(1, [None, None]), prompt(2, [0.0, 0.0])]
    seed = tuple(prompt(index, [0.5, 0.5]) for index in range(3))
    row = row_of(*ours, seed=seed, reward=JUDGE, samples=2)
    assert (row["score"]["mean"], row["win_rate"]["mean"]) == (0.5, 0.5)
    assert (row["prompts"], row["samples"]) == (2, 6)
    assert row["win_rate_length_controlled"]["mean"] == pytest.approx(0.5)


def test_a_set_of_which_nothing_was_scored_says_so_and_is_never_the_best() -> None:
    row = row_of(dropped={0: "generating: expired", 1: "generating: expired"})
    assert (row["score"], row["length_mean"], row["length_normalized"], row["pass_at"]) == (None, None, None, {})
    assert row["dropped"] == {"generating: expired": 2}
    assert best_row([row], Best(evaluation="heldout")) is None


def test_the_best_row_is_the_highest_of_its_metric_and_of_equal_ones_the_oldest() -> None:
    rows = [
        row_of(prompt(0, scores, tokens=tokens), seed=(prompt(0, [0.0]),), version=version, samples=2)
        for version, scores, tokens in [(0, [0, 0], 10), (5, [1, 0], 10), (10, [1, 0], 40), (15, [0, 0], 10)]
    ]
    other = row_of(prompt(0, [1, 1]), version=20, name="other", samples=2)
    by = {metric: best_row([*rows, other], Best(evaluation="heldout", metric=metric)) for metric in
          ("score", "pass_at_k", "length_normalized")}  # fmt: skip
    assert {metric: row and row["version"] for metric, row in by.items()} == {
        "score": 5,
        "pass_at_k": 5,
        "length_normalized": 5,
    }
    assert value_of(rows[1], "pass_at_k") == 1.0
