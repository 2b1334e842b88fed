"""Which prompt has which place depends on the run spec alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.coordinator.work.plan import task_of_slot
from services.coordinator.work.prompt_file import Row, read_rows
from services.coordinator.work.prompts import PromptPlan
from syncline import runspec
from syncline.data_rows import Prompt
from syncline.errors import InvalidSpec, RunFailed
from syncline.rewardspec import MathSpec

MATH = MathSpec(type="math")


def encode(prompt: Prompt) -> tuple[tuple[int, ...], str]:
    assert isinstance(prompt, str)
    return tuple(prompt.encode()), prompt


def spec(weights: dict[str, float], *, prompts_per_step: int = 8, seed: int = 0) -> runspec.RunSpec:
    return runspec.parse(
        {
            "name": "plan",
            "seed": seed,
            "model": {"path": "m"},
            "algorithm": {"name": "dpo"},
            "steps": 100,
            "prompts_per_step": prompts_per_step,
            "generation": {"max_tokens": 10},
            "tasks": [
                {"name": name, "data": "d.jsonl", "reward": {"type": "math"}, "weight": weight}
                for name, weight in weights.items()
            ],
        }
    )


def plan(weights: dict[str, float], rows: dict[str, list[str]], *, seed: int = 0, context: int = 100) -> PromptPlan:
    return PromptPlan(
        spec(weights, seed=seed),
        {name: [Row(text, "1") for text in texts] for name, texts in rows.items()},
        encode=encode,
        context=context,
    )


def test_a_step_has_the_same_prompts_whoever_asks_and_in_whatever_order() -> None:
    rows = {"a": [f"a{n}" for n in range(30)], "b": [f"b{n}" for n in range(7)]}
    forward, straight = plan({"a": 2, "b": 1}, rows), plan({"a": 2, "b": 1}, rows)
    assert straight.for_step(20) == [forward.for_step(step) for step in range(21)][20]
    assert plan({"a": 2, "b": 1}, rows, seed=1).for_step(0) != forward.for_step(0)


def test_every_row_comes_once_before_any_comes_twice() -> None:
    dealt = plan({"a": 1}, {"a": [f"row {n}" for n in range(24)]})
    epochs = [
        [prompt.text for step in range(first, first + 3) for prompt in dealt.for_step(step)] for first in (0, 3, 6)
    ]
    for epoch in epochs:
        assert sorted(epoch) == sorted(f"row {n}" for n in range(24))
    assert epochs[0] != epochs[1] != epochs[2], "each epoch is shuffled anew"


def test_a_prompt_that_is_too_long_is_skipped_and_counted_once() -> None:
    dealt = plan({"a": 1}, {"a": ["fits", "also fits", "x" * 91]}, context=100)
    texts = {prompt.text for step in range(5) for prompt in dealt.for_step(step)}
    assert texts == {"fits", "also fits"}
    assert dealt.too_long == {"a": 1}


def test_a_task_without_any_prompt_that_fits_fails() -> None:
    dealt = plan({"a": 1}, {"a": ["x" * 95, "y" * 95]}, context=100)
    with pytest.raises(RunFailed, match=r"task 'a': every prompt is too long for the model's context"):
        dealt.for_step(0)


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=5), st.integers(0, 10_000))
def test_any_stretch_of_the_run_holds_the_tasks_by_weight(weights: list[float], start: int) -> None:
    named = [(str(index), weight) for index, weight in enumerate(weights)]
    length = 256
    counts = Counter(task_of_slot(slot, named) for slot in range(start, start + length))
    for name, weight in named:
        assert abs(counts[name] - length * weight / sum(weights)) <= 12


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds no rows"),
        ('{"prompt": "1+1=", "answer": "2"}\n{"answer": "2"}\n', "line 2 has no `prompt`"),
        ('{"prompt": "1+1="}\n', "line 1 has no `answer`"),
        ('{"prompt": "1+1=", "answer": " "}\n', "line 1 has no `answer`"),
        ('{"prompt": 3, "answer": "2"}\n', "neither text nor messages"),
        ('{"prompt": [{"role": "user"}], "answer": "2"}\n', "neither text nor messages"),
        ('{"prompt": "1+1=", \n', "line 1 is not JSON: "),
        ('{"prompt": "1+1=", "answer": "2", "answer": "3"}\n', "line 1 has the key 'answer' twice"),
        ("[1]\n", "line 1 is a list"),
        ("\n\n[1]\n", "line 3 is a list"),
        ('{"prompt": "1+1=", "answer": true}\n', "line 1 has an `answer` that is a bool"),
        ('{"prompt": "1+1=", "answer": NaN}\n', "line 1 has NaN, which is not a JSON number"),
        ('{"prompt": [{"role": 1, "content": "a"}], "answer": "2"}\n', "neither text nor messages"),
        ('{"prompt": "1+1=", "answer": ' + "9" * 5000 + "}\n", "line 1 has a whole number of thousands of digits"),
        ("[" * 100_000, "line 1 is nested too deeply"),
    ],
)
def test_a_bad_row_is_refused_with_its_line(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(text)
    with pytest.raises(InvalidSpec, match=r"tasks\.0\.data") as refused:
        read_rows(path, field="tasks.0.data", reward=MATH)
    assert says in str(refused.value)


def test_a_file_that_is_not_utf_8_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'{"prompt": "1+1=", "answer": "2"}\n{"prompt": "\xe9", "answer": "2"}\n')
    with pytest.raises(InvalidSpec, match=r"data.jsonl line 2 is not UTF-8"):
        read_rows(path, field="tasks.0.data", reward=MATH)


def test_parquet_and_jsonl_read_alike(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    rows: list[dict[str, Any]] = [{"prompt": "1+1=", "answer": "2"}, {"prompt": "2+2=", "answer": "4"}]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "data.parquet")
    (tmp_path / "data.jsonl").write_text(
        "".join(f'{{"prompt": "{r["prompt"]}", "answer": {r["answer"]}}}\n' for r in rows)
    )
    read = [read_rows(tmp_path / name, field="f", reward=MATH) for name in ("data.parquet", "data.jsonl")]
    assert read[0] == read[1] == [Row("1+1=", "2"), Row("2+2=", "4")]
