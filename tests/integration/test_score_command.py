"""`syncline score`: a verdict a row, without a stack."""

from __future__ import annotations

import asyncio
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from services.cli.score import Tally, as_text
from services.reward import score as program
from services.reward.scorer import Scorer
from services.reward.verdicts import Item, Verdict

ROOT = Path(__file__).parents[2]


def syncline_score(file: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "services.cli", "score", str(file), *options],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "shared")])},
        capture_output=True,
        text=True,
        timeout=110,
    )


def test_rows_come_from_standard_input_too() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "services.cli", "score", "-"],
        input='{"completion": "so 2", "answer": "2"}\n',
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.endswith("1 rows: 1 right; mean score 1.0000\n")


def rows_file(folder: Path, *rows: object) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_every_row_has_its_verdict_and_a_bad_one_is_named_by_its_line(tmp_path: Path) -> None:
    exact = {"type": "verifier", "name": "exact_match"}
    file = rows_file(
        tmp_path,
        {"answer": "1/2", "completion": "2/4"},
        {"answer": "1/3", "completion": "2/4"},
        {"answer": "1/3", "completion": "I do not know"},
        {"answer": r"\boxed{}", "completion": "2/4"},
        "no json",
        {"answer": "Paris", "completion": "Paris", "reward": exact},
        {"answer": "Paris", "completion": "paris", "reward": exact | {"options": {"ignore_case": True}}},
        {"answer": "Paris", "completion": "paris", "reward": exact | {"options": {"cold": True}}},
        {"answer": "42"},
        {"answer": 42, "completion": r"\boxed{9^{9^{9^9}}}"},
    )
    done = syncline_score(file, "-o", "json")
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["line"] for row in told] == list(range(1, 11))
    assert [(row["status"], row["score"]) for row in told if "problem" not in row] == [
        ("scored", 1.0),
        ("scored", 0.0),
        ("unparsable", 0.0),
        ("scored", 1.0),
        ("scored", 1.0),
        ("timeout", 0.0),
    ]
    problems = {row["line"]: row["problem"] for row in told if "problem" in row}
    assert sorted(problems) == [4, 5, 8, 9]
    assert "cannot be read by math" in problems[4]
    assert "no JSON" in problems[5]
    assert "reward.options.cold" in problems[8]
    assert "ignore_case: bool = False" in problems[8]
    assert "--golds" in problems[9]
    # some rows have no verdict: exit code 1; the summary is for people
    assert done.returncode == 1
    summary = done.stderr.strip().splitlines()[-1]
    assert summary.startswith("10 rows: 4 problem, 3 right, ")
    assert "1 timeout" in summary


def test_gold_answers_are_checked_against_themselves_in_columns_for_people(tmp_path: Path) -> None:
    done = syncline_score(rows_file(tmp_path, {"answer": "so\n#### 1,234"}, {"answer": r"\frac12"}), "--golds")
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.split()[:3] == ["1", "1", "scored"]
    assert second.split()[:3] == ["2", "1", "scored"]
    assert done.stderr == "2 rows: 2 right; mean score 1.0000\n"


def test_what_cannot_begin_says_why(tmp_path: Path) -> None:
    file = rows_file(tmp_path, {"answer": "1", "completion": "1"})
    for options, problem in (
        (("--reward", '{"type": "verifier", "name": "nope"}'), "there is no verifier 'nope'; allowed: exact_match"),
        (("--reward", "nonsense"), "reward: "),
    ):
        done = syncline_score(file, *options)
        assert (done.returncode, done.stdout) == (1, "")
        assert problem in done.stderr
    missing = syncline_score(tmp_path / "nope.jsonl")
    assert missing.returncode == 1
    assert "cannot be read" in missing.stderr


class Held:
    """A reward that gives no verdict before it is told to."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def score(self, spec: object, items: list[Item]) -> list[Verdict]:
        if items:
            await self.go.wait()
        return [Verdict("scored", score=1.0) for _ in items]


class Counted(io.StringIO):
    """A long file that counts the lines that were read from it."""

    def __init__(self, lines: int) -> None:
        super().__init__()
        self.lines = lines
        self.taken = 0

    def __iter__(self) -> Any:
        return self._rows()

    def _rows(self) -> Iterator[str]:
        while self.taken < self.lines:
            self.taken += 1
            yield '{"answer": "1", "completion": "1"}\n'


async def test_a_long_file_flows_through_with_few_rows_in_memory() -> None:
    held, rows, out = Held(), Counted(100_000), io.StringIO()
    scorer = program.RowScorer(Scorer({"math": held}), reward_json='{"type": "math"}', golds=False)  # type: ignore[dict-item]
    scoring = asyncio.create_task(program._through(rows, out, scorer))
    # when nothing comes out, little goes in
    bound = 256 * 8
    taken = -1
    async with asyncio.timeout(30):
        while taken != rows.taken or not taken:
            taken = rows.taken
            await asyncio.sleep(0.2)
    assert 0 < rows.taken <= bound
    # and in the end every row has come out, in order
    held.go.set()
    assert await asyncio.wait_for(scoring, timeout=100) == 0
    told = [json.loads(line)["line"] for line in out.getvalue().splitlines()]
    assert told == list(range(1, 100_001))


def test_a_row_without_a_score_is_printed_and_takes_no_part_in_the_mean() -> None:
    tally = Tally()
    rows = [
        {"line": 1, "status": "unparsable", "score": None, "seconds": 0.1, "cause": "missing"},
        {"line": 2, "status": "scored", "score": 6.0, "seconds": 0.1, "cause": ""},
    ]
    for row in rows:
        tally.add(row)
    assert "-  unparsable" in as_text(rows[0])
    assert "mean score 6.0000" in str(tally)
