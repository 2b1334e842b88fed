"""The exported pairs are those that train: the same as every algorithm plans, and in other trainers' words."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.coordinator.records.export import exported, preferences
from services.coordinator.records.run import Run
from services.coordinator.records.store import RunStore
from syncline import ids, recording, runspec
from syncline.algo.pairs import build_pair_rule
from syncline.algorithmspec import build_algorithm
from syncline.errors import NotFound
from syncline.rollout_rows import RolloutRow
from syncline.storage import FolderStorage
from tests.unit.algo.algorithms import NAMES

CHAT = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "1+1="}]


def spec_of(algorithm: str = "dpo", *, pairs: str = "random", seed: int = 0) -> runspec.RunSpec:
    tasks = [
        {"name": name, "data": "d.jsonl", "reward": {"type": "math"}, "pairs": {"type": pairs}}
        for name in ("math", "chat")
    ]
    small = {"name": "export", "model": {"path": "m"}, "steps": 20, "sync": {"period": "never"}}
    return runspec.parse({**small, "seed": seed, "algorithm": {"name": algorithm}, "tasks": tasks})


def row_of(rewards: list[float], **fields: Any) -> RolloutRow:
    samples = [
        {"text": f"answer {i}", "token_ids": [i, 2], "log_probs": [-1.0, -0.5], "reward": reward}
        for i, reward in enumerate(rewards)
    ]
    fixed = {"prompt": "1+1=", "prompt_token_ids": [1], "task": "math", "samples": samples}
    return RolloutRow.model_validate(fixed | fields)


@given(
    algorithm=st.sampled_from(NAMES),
    rewards=st.lists(st.sampled_from([0.0, 1.0]), min_size=2, max_size=8),
    pairs=st.sampled_from(["random", "best_vs_worst"]),
    seed=st.integers(0, 5),
    step=st.integers(0, 50),
    index=st.integers(0, 31),
)
def test_the_exported_pairs_are_those_that_the_algorithm_planned_and_for_grpo_those_of_dpo(
    algorithm: str, rewards: list[float], pairs: str, seed: int, step: int, index: int
) -> None:
    def planned(name: str) -> list[tuple[int, int]]:
        spec = spec_of(name, pairs=pairs, seed=seed)
        rng = Random(ids.pair_seed(seed, step=step, prompt_index=index))
        rule = build_pair_rule(spec.tasks[0].pair_rule.model_dump())
        plan = build_algorithm(spec.algorithm).plan(rewards, rule, rng)
        return [(pair.chosen, pair.rejected) for pair in plan.pairs]

    trained = planned(algorithm)
    row = row_of(rewards, step=step, prompt_index=index, pairs=trained)
    found = preferences(spec_of(algorithm, pairs=pairs, seed=seed), row)
    expected = planned("dpo") if algorithm == "grpo" else trained
    assert [(pair["chosen"], pair["rejected"]) for pair in found] == [
        (f"answer {chosen}", f"answer {rejected}") for chosen, rejected in expected
    ]


def test_a_text_prompt_gives_texts_and_messages_give_messages() -> None:
    (standard,) = preferences(spec_of(), row_of([0.0, 1.0]))
    assert standard == {"prompt": "1+1=", "chosen": "answer 1", "rejected": "answer 0"}
    (conversational,) = preferences(spec_of(), row_of([1.0, 0.0], prompt=CHAT, task="chat"))
    assert conversational == {
        "prompt": CHAT,
        "chosen": [{"role": "assistant", "content": "answer 0"}],
        "rejected": [{"role": "assistant", "content": "answer 1"}],
    }


# -- a run's files -----------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Three steps of two groups, of which one has no pair."""
    run = RunStore(tmp_path).create("export-000000", spec_of())
    for step in range(3):
        rows = [row_of([0.0, 1.0], step=step), row_of([1.0, 1.0], step=step, prompt_index=1, prompt=CHAT, task="chat")]
        recording.write_step(FolderStorage(run.folder), step, rows)
    run.record.step = 3
    return run


def decoded(run: Run, form: Any, **options: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in "".join(exported(run, form, **options)).splitlines()]


def test_rollouts_come_in_the_order_of_training(run: Run) -> None:
    rows = decoded(run, "rollouts")
    assert [(row["step"], row["prompt_index"]) for row in rows] == [(s, i) for s in range(3) for i in range(2)]
    assert [row["task"] for row in decoded(run, "rollouts", task="chat")] == ["chat"] * 3


def test_a_group_without_a_pair_gives_no_preference(run: Run) -> None:
    assert [row["prompt"] for row in decoded(run, "preferences")] == ["1+1="] * 3
    assert decoded(run, "preferences", task="chat") == []


def test_steps_of_an_attempt_that_was_given_up_are_not_exported(run: Run) -> None:
    run.rewind(2)
    assert {row["step"] for row in decoded(run, "rollouts")} == {0, 1}


def test_what_cannot_be_exported_is_said_at_once(run: Run) -> None:
    with pytest.raises(NotFound, match=r"has no task 'maths'; it has math, chat"):
        exported(run, "rollouts", task="maths")
    (run.folder / "rollouts" / "step-000001.jsonl.gz").unlink()
    with pytest.raises(NotFound, match=r"not whole: 1 steps lack, first step 1"):
        exported(run, "rollouts")
    for path in (run.folder / "rollouts").iterdir():
        path.unlink()
    with pytest.raises(NotFound, match=r"rollouts\.record is false"):
        exported(run, "rollouts")
    run.rewind(0)
    with pytest.raises(NotFound, match="has made no step yet"):
        exported(run, "rollouts")
