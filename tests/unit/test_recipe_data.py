"""The recipes' prompt files are made of rows like those of the public sets, and hold what the recipes say."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from services.coordinator.work.prompt_file import read_rows
from services.local.recipes import prepare
from syncline.rewardspec import MathSpec

REPOSITORY = Path(__file__).parents[2]


def problem(number: int, source: str = "olympiads") -> dict[str, str]:
    text = f"What is ${number}+1$?"
    return {
        "source": source,
        "problem": text,
        "solution": f"Add one: first \\boxed{{0}}, then $\\boxed{{{number + 1}}}$.",
    }


def made(kind: str, rows: list[dict[str, Any]], folder: Path) -> tuple[str, dict[str, list[dict[str, Any]]]]:
    """What the program says, and its files."""
    (folder / "source").mkdir()
    half = len(rows) // 2
    for number, some in enumerate((rows[:half], rows[half:])):
        parquet.write_table(pyarrow.Table.from_pylist(some), folder / "source" / f"train-{number}.parquet")
    command = [sys.executable, "-m", "services.local.recipes.prepare", kind, str(folder / "source")]
    done = subprocess.run(
        [*command, "--out", str(folder / "out")], cwd=REPOSITORY, capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 0, done.stderr
    files = {path.relative_to(folder / "out").as_posix(): path for path in (folder / "out").rglob("*.jsonl")}
    return done.stdout, {name: [json.loads(line) for line in path.open()] for name, path in files.items()}


@pytest.mark.parametrize(
    ("text", "solution", "source", "cause"),
    [
        ("Find $x$.", "$\\boxed{4}$", "olympiads", None),
        ("Find $x$.", "$\\boxed{4}$", "synthetic_amc", "synthetic (synthetic_amc)"),
        ("Prove that $x > 1$.", "$\\boxed{}$", "aops_forum", "a proof"),
        ("Show that it holds.", "It does.", "aops_forum", "a proof"),
        ("Which improves the result?", "4", "math", "no boxed answer"),
        ("Which? (A) 1 (B) 2 (C) 3", "\\boxed{2}", "cn_k12", "multiple choice"),
        ("Which?\nA: one\nB: two\nC: three\nD: four", "\\boxed{two}", "cn_k12", "multiple choice"),
        ("Which?", "\\boxed{\\text{(B)}}", "amc_aime", "multiple choice"),
        ("Which?", "\\boxed{C}", "amc_aime", "multiple choice"),
        ("Let $A$, $B$ and $C$ be points.", "\\boxed{AB}", "olympiads", None),
    ],
)
def test_proofs_choices_and_synthetic_problems_are_left_out(
    text: str, solution: str, source: str, cause: str | None
) -> None:
    assert prepare.unfit(text, solution, source=source) == cause


def test_numina_math_is_split_once_and_for_all_and_held_out_problems_are_not_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [problem(number) for number in range(4500)] + [problem(7), problem(9, "orca_math")]
    said, files = made("numina-math", rows, tmp_path)
    sizes = {name.removeprefix("numina-math/"): len(found) for name, found in files.items()}
    assert sizes == {"validation.jsonl": 1980, "test.jsonl": 1980, "train.jsonl": 540, "train-100k.jsonl": 540}
    assert "1 left out: synthetic (orca_math)" in said
    assert "1 left out: twice" in said
    whole = [row["prompt"][0]["content"] for name, found in files.items() if "100k" not in name for row in found]
    assert len(set(whole)) == len(whole) == 4500
    again = prepare.numina_math(reversed(rows), Counter())
    assert again != files, "the order of the source counts"
    assert prepare.numina_math(iter(rows), Counter()) == files
    read = read_rows(tmp_path / "out/numina-math/train.jsonl", field="data", reward=MathSpec(type="math"))
    assert read[0].answer.startswith("\\boxed{")
    asked, answer = files["numina-math/test.jsonl"][0]["prompt"][0]["content"], read[0].answer
    assert "\\boxed{}" in asked
    assert answer.count("\\boxed") == 1, "the last box alone"


def test_wildchat_gives_first_user_turns_each_once(tmp_path: Path) -> None:
    def talk(text: str) -> dict[str, Any]:
        turns = [{"role": "user", "content": text}, {"role": "assistant", "content": "Hello."}]
        return {"conversation": [*turns, {"role": "user", "content": "And then?"}], "language": "English"}

    said, files = made(
        "wildchat", [talk(f"Tell me of {n}") for n in range(2000)] + [talk("Tell me of 7"), talk(" ")], tmp_path
    )
    assert {name: len(rows) for name, rows in files.items()} == {
        "wildchat/heldout.jsonl": 471,
        "wildchat/train.jsonl": 1000,
        "wildchat/train-50k.jsonl": 1529,
    }
    assert "1 left out: twice" in said
    held_out = {row["prompt"][0]["content"] for row in files["wildchat/heldout.jsonl"]}
    trained = {row["prompt"][0]["content"] for row in files["wildchat/train-50k.jsonl"]}
    assert not held_out & trained
    assert all(text.startswith("Tell me of ") for text in held_out | trained)


def test_a_source_of_another_kind_is_told(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"question": "1+1?"}\n')
    command = [sys.executable, "-m", "services.local.recipes.prepare", "numina-math", str(tmp_path)]
    done = subprocess.run(
        [*command, "--out", str(tmp_path)], cwd=REPOSITORY, capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 1
    assert "has other columns than numina-math ('problem')" in done.stderr
