"""GSM8K as prompt files that a very small model can learn from.

    python -m services.local.gsm8k.prompts --gsm8k FOLDER --out FOLDER

FOLDER holds train.jsonl and test.jsonl of openai/grade-school-math, rows {"question", "answer"}; the project does not
contain them. The problems with the shortest solutions are taken: those that such a model gets right now and then.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TRAIN_ROWS = 2000
HELDOUT_ROWS = 200
INSTRUCTION = "\nAnswer with one short calculation and the final number."


def shortest(rows: Sequence[dict[str, str]], count: int) -> list[dict[str, str]]:
    """The `count` rows with the shortest solutions, in a fixed random order."""
    chosen = sorted(rows, key=lambda row: (len(row["answer"]), row["question"]))[:count]
    random.Random(0).shuffle(chosen)
    return chosen


def prompt_row(row: dict[str, str]) -> dict[str, Any]:
    """A row of a prompt file: the question with our instruction as a user's message, GSM8K's answer as it is."""
    return {"prompt": [{"role": "user", "content": row["question"] + INSTRUCTION}], "answer": row["answer"]}


def split_file(folder: Path, split: str) -> Path:
    """The file of a split. Raises FileNotFoundError, saying what was looked for."""
    names = (f"{split}.jsonl", f"gsm8k_{split}.jsonl")
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"{folder} holds neither {' nor '.join(names)}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gsm8k", type=Path, required=True, help="folder with GSM8K's train.jsonl and test.jsonl")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        for split, count in (("train", TRAIN_ROWS), ("test", HELDOUT_ROWS)):
            with split_file(options.gsm8k, split).open(encoding="utf-8") as file:
                rows = [json.loads(line) for line in file]
            lines = (json.dumps(prompt_row(row), ensure_ascii=False) + "\n" for row in shortest(rows, count))
            (options.out / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    except FileNotFoundError as error:
        print(
            f"{error}. GSM8K lies in grade_school_math/data of github.com/openai/grade-school-math; "
            "then: make gsm8k GSM8K=that/folder",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
