"""The GSM8K run: its prompt files and its spec."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from services.cli import specfile
from services.local.gsm8k import prompts
from syncline.data_rows import DataRow, answer_of, is_prompt, rows_of

SPEC = Path(prompts.__file__).parent / "gsm8k.yaml"


def problems(count: int) -> str:
    """As GSM8K writes them, the longest solution first."""
    rows = (
        {"question": f"What is {n} + {n}?", "answer": "so " * (count - n) + f"{n} + {n} = {2 * n}\n#### {2 * n}"}
        for n in range(count)
    )
    return "".join(json.dumps(row) + "\n" for row in rows)


def made(folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["prompts", "--gsm8k", str(folder), "--out", str(folder / "out")])
    return prompts.main()


@pytest.mark.parametrize("names", [("train.jsonl", "test.jsonl"), ("gsm8k_train.jsonl", "gsm8k_test.jsonl")])
def test_the_problems_with_the_shortest_solutions_become_prompt_files_that_training_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, str]
) -> None:
    for name, count in zip(names, (2_100, 250), strict=True):
        (tmp_path / name).write_text(problems(count))
    assert made(tmp_path, monkeypatch) == 0
    for name, count, kept in (("train.jsonl", 2_100, 2_000), ("test.jsonl", 250, 200)):
        rows = list(rows_of(tmp_path / "out" / name, field="data"))
        assert len(rows) == kept
        golds = []
        for row in rows:
            assert isinstance(row, DataRow)
            assert is_prompt(row.fields["prompt"])
            assert row.fields["prompt"][0]["content"].endswith(prompts.INSTRUCTION)
            golds.append(int(str(answer_of(row)).rpartition("#### ")[2]))
        # the solutions get shorter with n; their order in the file is a fixed random one
        assert sorted(golds) == [2 * n for n in range(count - kept, count)]
        assert golds != sorted(golds)


def test_without_the_data_set_it_says_where_it_is_to_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert made(tmp_path, monkeypatch) == 1
    said = capsys.readouterr().err
    assert "holds neither train.jsonl nor gsm8k_train.jsonl" in said
    assert "make gsm8k GSM8K=that/folder" in said


def test_the_spec_trains_the_files_by_the_math_reward_and_evaluates_greedily() -> None:
    spec = specfile.load(SPEC)
    (task,) = spec.tasks
    (heldout,) = spec.evaluation
    assert (task.reward.type, heldout.reward.type) == ("math", "math")
    assert Path(task.data or "").parts[-3:] == (".cache", "gsm8k", "train.jsonl")
    assert Path(heldout.data).parts[-3:] == (".cache", "gsm8k", "test.jsonl")
    assert (heldout.samples, heldout.temperature) == (1, 0.0)
    assert spec.sync.period == 4
