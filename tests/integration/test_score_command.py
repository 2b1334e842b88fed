"""`syncline score`: a verdict a row, without a stack."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from services.cli.score import Tally, as_text
from services.reward import score as program
from services.reward.scorer import Scorer
from services.reward.verdicts import Item, Verdict
from syncline.data_rows import BadRow, DataRow

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
        {"answer": ["42"], "completion": "42"},
        {"answer": "42", "completion": 42},
    )
    done = syncline_score(file, "-o", "json")
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["line"] for row in told] == list(range(1, 13))
    assert [(row["status"], row["score"]) for row in told if "problem" not in row] == [
        ("scored", 1.0),
        ("scored", 0.0),
        ("unparsable", 0.0),
        ("scored", 1.0),
        ("scored", 1.0),
        ("timeout", 0.0),
    ]
    problems = {row["line"]: row["problem"] for row in told if "problem" in row}
    assert sorted(problems) == [4, 5, 8, 9, 11, 12]
    assert "cannot be read by math" in problems[4]
    assert "is not JSON" in problems[5]
    assert "reward.options.cold" in problems[8]
    assert "ignore_case: bool = False" in problems[8]
    assert "--golds" in problems[9]
    assert problems[11] == "has an `answer` that is a list; allowed: text, or a finite number"
    assert problems[12].startswith("has a `completion` that is no text")
    # some rows have no verdict: exit code 1; the summary is for people
    assert done.returncode == 1
    summary = done.stderr.strip().splitlines()[-1]
    assert summary.startswith("12 rows: 6 problem, 3 right, ")
    assert "1 timeout" in summary


def test_gold_answers_are_checked_against_themselves_in_columns_for_people(tmp_path: Path) -> None:
    done = syncline_score(rows_file(tmp_path, {"answer": "so\n#### 1,234"}, {"answer": r"\frac12"}), "--golds")
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.split()[:3] == ["1", "1", "scored"]
    assert second.split()[:3] == ["2", "1", "scored"]
    assert done.stderr == "2 rows: 2 right; mean score 1.0000\n"


def test_a_line_that_cannot_be_read_costs_itself_and_no_other(tmp_path: Path) -> None:
    good = json.dumps({"answer": "1/2", "completion": "2/4"}).encode()
    lines = [good, b'{"answer": ' + b"9" * 5000 + b"}", b"[" * 100_000, b'{"answer": "\xe9"}', good]
    (tmp_path / "rows.jsonl").write_bytes(b"\xef\xbb\xbf" + b"\n".join(lines))
    done = syncline_score(tmp_path / "rows.jsonl", "-o", "json")
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row.get("score") for row in told] == [1.0, None, None, None, 1.0]
    assert [row["problem"] for row in told[1:4]] == [
        "has a whole number of thousands of digits; allowed: one JSON object a line",
        "is nested too deeply; allowed: one JSON object a line",
        "is not UTF-8 (byte 0xe9 at 12); allowed: text in UTF-8",
    ]
    assert done.stderr == "5 rows: 3 problem, 2 right; mean score 1.0000\n"


def test_whatever_training_reads_can_be_scored(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    rows = [{"answer": "1/2", "completion": "2/4"}, {"answer": "1/3", "completion": "2/4"}]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    for name in ("rows.parquet", "rows.jsonl.gz"):
        done = syncline_score(tmp_path / name, "-o", "json")
        assert [json.loads(line)["score"] for line in done.stdout.splitlines()] == [1.0, 0.0], done.stderr
        assert done.returncode == 0


def test_gold_answers_that_no_completion_can_equal_are_problems(tmp_path: Path) -> None:
    golds = ["72", "85 or 86", r"\frac{", r"\text{east}", "84 = 85", r"\boxed{}"]
    done = syncline_score(rows_file(tmp_path, *({"answer": gold} for gold in golds)), "--golds", "-o", "json")
    problems = [json.loads(line).get("problem", "") for line in done.stdout.splitlines()]
    assert [bool(problem) for problem in problems] == [False, True, True, False, True, True]
    assert problems[1] == "the gold answer equals itself in a box only; as it is, it reads as something else"
    assert problems[2] == "the gold answer equals itself as text only; as mathematics, in a box, it does not"
    assert problems[4].startswith("the gold answer does not equal itself")
    assert "cannot be read by math" in problems[5]
    assert done.returncode == 1


def test_rows_have_no_tokens_so_an_overlong_penalty_is_left_out_and_says_so(tmp_path: Path) -> None:
    reward = {"type": "math", "shaping": [{"type": "overlong", "margin": 64}]}
    done = syncline_score(rows_file(tmp_path, {"answer": "1", "completion": "1", "reward": reward}), "-o", "json")
    told = json.loads(done.stdout)
    assert told["score"] == 1.0
    assert told["cause"] == "overlong penalty left out: tokens and max_tokens not known"


def test_what_cannot_begin_says_why(tmp_path: Path) -> None:
    file = rows_file(tmp_path, {"answer": "1", "completion": "1"})
    for options, problem in (
        (("--reward", '{"type": "verifier", "name": "nope"}'), "there is no verifier 'nope'; allowed: exact_match"),
        (
            ("--reward", "math"),
            "reward: 'math' is not JSON (expected value at line 1 column 1); allowed: a JSON object",
        ),
        (("--reward", "{}"), "reward.type: missing; allowed: this field is required"),
    ):
        done = syncline_score(file, *options)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("error: ")
        assert problem in done.stderr
        assert len(done.stderr.splitlines()) == 1
    done = syncline_score(rows_file(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: FILE: it holds no rows; allowed: at least one row\n"
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


class Counted:
    """A long file that counts the rows that were read from it."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.taken = 0

    def __iter__(self) -> Iterator[DataRow | BadRow]:
        return self

    def __next__(self) -> DataRow | BadRow:
        if self.taken == self.rows:
            raise StopIteration
        self.taken += 1
        return DataRow(self.taken, {"answer": "1", "completion": "1"})


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


def test_rows_of_a_shaped_reward_bring_their_tokens_or_are_told_that_they_lack_them(tmp_path: Path) -> None:
    reward = {"type": "verifier", "name": "exact_match", "shaping": [{"type": "length", "per_token": 0.1}]}
    file = rows_file(
        tmp_path,
        {"completion": "2", "answer": "2", "tokens": 4},
        {"completion": "2", "answer": "2"},
        {"completion": "2", "answer": "2", "tokens": "4"},
    )
    done = syncline_score(file, "--reward", json.dumps(reward), "-o", "json")
    shaped, plain, bad = map(json.loads, done.stdout.splitlines())
    assert (shaped["score"], shaped["cause"]) == (0.6, "")
    assert (plain["score"], plain["cause"]) == (1.0, "length penalty left out: tokens not known")
    assert bad["problem"].startswith("has `tokens` or `max_tokens` that are no counts")
    assert done.stderr == "3 rows: 2 scored, 1 problem; grades: mean 0.8, min 0.6, max 1\n"


def test_grades_are_not_told_as_right_or_wrong() -> None:
    tally = Tally()
    for grade in (10.0, 1.0, 0.0):
        tally.add({"line": 1, "status": "scored", "score": grade, "cause": "", "seconds": 0.1, "graded": True})
    assert str(tally) == "3 rows: 3 scored; grades: mean 3.667, min 0, max 10"
    tally.add({"line": 4, "status": "scored", "score": 1.0, "cause": "", "seconds": 0.1})
    assert str(tally).startswith("4 rows: 3 scored, 1 right; mean score 1.0000; grades: mean 3.667")


def test_a_closed_standard_input_is_no_matter_for_a_file_and_said_for_rows_from_it(tmp_path: Path) -> None:
    file = rows_file(tmp_path, {"completion": "2", "answer": "2"})
    for source, told in ((file, "1 rows: 1 right; mean score 1.0000"), ("-", "error: standard input is closed")):
        done = subprocess.run(
            ["/bin/sh", "-c", 'exec "$0" -m services.cli score "$1" <&-', sys.executable, str(source)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "shared")])},
            capture_output=True,
            text=True,
            timeout=110,
        )
        assert told in done.stderr
        assert "Traceback" not in done.stderr
