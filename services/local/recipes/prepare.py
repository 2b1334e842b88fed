"""The recipes' prompt files, from the public data sets that the paper names.

    python -m services.local.recipes.prepare numina-math FOLDER    # Parquet of AI-MO/NuminaMath-CoT, split train
    python -m services.local.recipes.prepare wildchat FOLDER       # Parquet of allenai/WildChat-1M
    python -m services.local.recipes.prepare benchmark FILE        # MATH-500 or AMC23: rows {problem, answer}

Files go where the recipes look for them, or below --out. The project does not contain the data. The paper (section 3)
says which problems it leaves out, not how it told them; the rules here are ours, and their counts are printed, so that
they can be held against its 261,440 problems. Which prompts end up in which file depends on SEED alone.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

from syncline.data_rows import BadRow, rows_of
from syncline.errors import FieldProblem, InvalidSpec

SEED = 0
HELD_OUT = 1980
"""Problems for validation, and as many for the test (section 3.2)."""
MIXED_MATH, MIXED_CHAT = 100_000, 50_000
"""Prompts of the combined run (section 3.3)."""
CHAT, CHAT_HELD_OUT = 1000, 471
"""Prompts to train on (section 3.1), and as many to choose a checkpoint by as the paper had, of other sets."""
SYNTHETIC = frozenset({"orca_math", "synthetic_amc", "synthetic_math"})

_PROOF = re.compile(r"\b(prove|proof|show that|demonstrate that)\b", re.IGNORECASE)
_CHOICES = re.compile(r"\(?\bA[).:].*\(?\bB[).:].*\(?\bC[).:]", re.DOTALL)
_LETTER = re.compile(r"\\boxed\{\s*(?:\\(?:text|textbf|mathrm)\{)?\s*\(?[A-E]\)?\s*\}?\s*\}")

Row = dict[str, Any]


def math_prompt(problem: str) -> list[dict[str, str]]:
    """The problem as a user's message. The paper has the MATH template of Llama 3.1; the words here are ours."""
    ask = "Work this problem out step by step, and put the final answer in \\boxed{} at the end.\n\n"
    return [{"role": "user", "content": ask + problem.strip()}]


def unfit(problem: str, solution: str, *, source: str = "") -> str | None:
    """Why a problem of NuminaMath is left out, or None."""
    if source in SYNTHETIC:
        return f"synthetic ({source})"
    if _PROOF.search(problem):
        return "a proof"
    if "\\boxed{" not in solution:
        return "no boxed answer"
    if _CHOICES.search(problem) or _LETTER.search(solution):
        return "multiple choice"
    return None


def numina_math(rows: Iterable[Mapping[str, Any]], left_out: Counter[str]) -> dict[str, list[Row]]:
    """Rows {source, problem, solution} as the files of the maths recipes, by name."""
    kept: dict[str, Row] = {}
    for row in rows:
        problem, solution = str(row["problem"]), str(row["solution"])
        cause = unfit(problem, solution, source=str(row.get("source", "")))
        if cause is None and problem in kept:
            cause = "twice"
        if cause:
            left_out[cause] += 1
        else:  # the verifier reads the answer in the last box
            kept[problem] = {"prompt": math_prompt(problem), "answer": solution[solution.rindex("\\boxed{") :]}
    shuffled = list(kept.values())
    Random(SEED).shuffle(shuffled)
    train = shuffled[2 * HELD_OUT :]
    return {
        "numina-math/validation.jsonl": shuffled[:HELD_OUT],
        "numina-math/test.jsonl": shuffled[HELD_OUT : 2 * HELD_OUT],
        "numina-math/train.jsonl": train,
        "numina-math/train-100k.jsonl": train[:MIXED_MATH],
    }


def wildchat(rows: Iterable[Mapping[str, Any]], left_out: Counter[str]) -> dict[str, list[Row]]:
    """Rows {conversation: [{role, content}, ...]} as the files of the chat recipes: first user turns, as they are.

    Each once: many people send the same text, and held-out prompts must be others than those that train.
    """
    kept: dict[str, None] = {}
    for row in rows:
        first = next((turn["content"] for turn in row["conversation"] if turn["role"] == "user"), "") or ""
        if not first.strip() or first in kept:
            left_out["twice" if first.strip() else "no words"] += 1
        else:
            kept[first] = None
    shuffled = [{"prompt": [{"role": "user", "content": text}]} for text in kept]
    Random(SEED).shuffle(shuffled)
    train = shuffled[CHAT_HELD_OUT:]
    return {
        "wildchat/heldout.jsonl": shuffled[:CHAT_HELD_OUT],
        "wildchat/train.jsonl": train[:CHAT],
        "wildchat/train-50k.jsonl": train[:MIXED_CHAT],
    }


def benchmark(rows: Iterable[Mapping[str, Any]], name: str) -> dict[str, list[Row]]:
    """Rows {problem or question, answer} as one file, all of them."""
    made = [
        {"prompt": math_prompt(str(row.get("problem") or row["question"])), "answer": f"${row['answer']}$"}
        for row in rows
    ]
    return {f"{name}.jsonl": made}


def read(place: Path) -> Iterator[Mapping[str, Any]]:
    """Every row of a file, or of all JSONL and Parquet files below a folder. Raises InvalidSpec."""
    files = sorted(p for kind in ("parquet", "jsonl", "jsonl.gz") for p in place.rglob(f"*.{kind}"))
    for file in files if place.is_dir() else [place]:
        for row in rows_of(file, field="data"):
            if isinstance(row, BadRow):
                raise InvalidSpec([FieldProblem("data", f"{file} line {row.line} {row.problem}", row.allowed)])
            yield row.fields
    if place.is_dir() and not files:
        raise InvalidSpec([FieldProblem("data", f"{place} holds no such file", "*.parquet, *.jsonl or *.jsonl.gz")])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("numina-math", "wildchat", "benchmark"))
    parser.add_argument("source", type=Path, help="a file, or a folder of files")
    parser.add_argument("--name", default="math500", help="of a benchmark: math500, amc23")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "data")
    options = parser.parse_args()
    left_out: Counter[str] = Counter()
    makers: dict[str, Callable[[Iterable[Mapping[str, Any]]], dict[str, list[Row]]]] = {
        "numina-math": lambda rows: numina_math(rows, left_out),
        "wildchat": lambda rows: wildchat(rows, left_out),
        "benchmark": lambda rows: benchmark(rows, options.name),
    }
    try:
        made = makers[options.kind](read(options.source))
    except InvalidSpec as error:
        print("; ".join(f"{one.problem}; allowed: {one.allowed}" for one in error.problems), file=sys.stderr)
        return 1
    except (KeyError, TypeError) as error:
        print(
            f"{options.source} has other columns than {options.kind} ({error}); see the top of this file",
            file=sys.stderr,
        )
        return 1
    for cause, count in left_out.most_common():
        print(f"{count:9,} left out: {cause}")
    for name, rows in made.items():
        path = options.out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        print(f"{len(rows):9,} in {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
