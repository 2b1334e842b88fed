"""`syncline score`: rows through the reward service's own code, in a process of its own.

The contract is a line of JSON for each row (`services.reward.score` describes it). No stack needs to run.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from syncline.errors import NotFound, Unavailable


@contextmanager
def scored(file: Path, *, reward: str, golds: bool) -> Iterator[Iterator[dict[str, Any]]]:
    """What is told of each row of `file`, while it is being told.

    Raises NotFound without the file, and Unavailable when the rows were not scored to the end.
    """
    try:
        file.open("rb").close()
    except OSError as error:
        raise NotFound(f"{file} cannot be read: {error.strerror}; give a JSONL or Parquet file") from None
    command = [sys.executable, "-m", "services.reward.score", str(file.resolve()), "--reward", reward]
    command += ["--golds"] if golds else []
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:  # noqa: S603 - our own program
        assert process.stdout is not None
        try:
            yield _told(process.stdout)
            process.stdout.close()
            if process.wait() not in (0, 1):
                raise Unavailable(f"scoring ended with exit code {process.returncode}; it said why above")
        finally:
            process.terminate()


@contextmanager
def rows_of(file: Path) -> Iterator[Path]:
    """The file itself, or for `-` one that holds what comes in as JSON lines. Raises NotFound where nothing does."""
    if str(file) != "-":
        yield file
        return
    if sys.stdin is None:  # it was closed, or this was started without one
        raise NotFound("standard input is closed; give a file, or pipe rows in")
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as copy:
        shutil.copyfileobj(sys.stdin.buffer, copy)
        copy.flush()
        yield Path(copy.name)


def _told(lines: IO[bytes]) -> Iterator[dict[str, Any]]:
    for line in lines:
        yield json.loads(line)


class Tally:
    """Rows by what became of them, with their scores: right or wrong, or grades."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._binary = _Scores()
        self._graded = _Scores()

    def add(self, row: dict[str, Any]) -> None:
        graded = bool(row.get("graded"))
        kind = "problem" if "problem" in row else str(row["status"])
        if row.get("score") is not None:  # a judge that cannot be read gives none
            (self._graded if graded else self._binary).add(row["score"])
        if kind == "scored" and not graded:
            kind = {1.0: "right", 0.0: "wrong"}.get(row["score"], kind)
        self.counts[kind] += 1

    def __str__(self) -> str:
        rows = self.counts.total()
        parts = [f"{count:,} {kind}" for kind, count in sorted(self.counts.items(), key=lambda item: -item[1])]
        text = f"{rows:,} rows: {', '.join(parts) or 'none'}"
        if self._binary.count:
            text += f"; mean score {self._binary.mean:.4f}"
        if self._graded.count:
            text += f"; grades: mean {self._graded.mean:.4g}, min {self._graded.low:.4g}, max {self._graded.high:.4g}"
        return text


class _Scores:
    """Mean and ends of what may be more numbers than are worth keeping."""

    def __init__(self) -> None:
        self.count = 0
        self.low, self.high = float("inf"), float("-inf")
        self._sum = 0.0

    def add(self, score: float) -> None:
        self.count += 1
        self._sum += score
        self.low, self.high = min(self.low, score), max(self.high, score)

    @property
    def mean(self) -> float:
        return self._sum / self.count


def as_text(row: dict[str, Any]) -> str:
    """One row for people: line, score, verdict, seconds, cause."""
    if "problem" in row:
        return f"{row['line']:>7}       -  {'problem':<11}        -  {row['problem']}"
    score = "     -" if row["score"] is None else f"{row['score']:6.3g}"
    return f"{row['line']:>7}  {score}  {row['status']:<11}{row['seconds']:9.4f}  {row['cause']}".rstrip()
