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
from typing import IO, Any, BinaryIO

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
def rows_of(file: Path, stdin: BinaryIO) -> Iterator[Path]:
    """The file itself, or for `-` one that holds what came in as JSON lines."""
    if str(file) != "-":
        yield file
        return
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as copy:
        shutil.copyfileobj(stdin, copy)
        copy.flush()
        yield Path(copy.name)


def _told(lines: IO[bytes]) -> Iterator[dict[str, Any]]:
    for line in lines:
        yield json.loads(line)


class Tally:
    """Rows by what became of them."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._scores = 0.0
        self._numbers = 0

    def add(self, row: dict[str, Any]) -> None:
        kind = "problem" if "problem" in row else str(row["status"])
        if row.get("score") is not None:  # a judge that cannot be read gives none
            self._scores += row["score"]
            self._numbers += 1
        if kind == "scored":
            kind = {1.0: "right", 0.0: "wrong"}.get(row["score"], "graded")
        self.counts[kind] += 1

    def __str__(self) -> str:
        rows = self.counts.total()
        parts = [f"{count:,} {kind}" for kind, count in sorted(self.counts.items(), key=lambda item: -item[1])]
        mean = f"; mean score {self._scores / self._numbers:.4f}" if self._numbers else ""
        return f"{rows:,} rows: {', '.join(parts) or 'none'}{mean}"


def as_text(row: dict[str, Any]) -> str:
    """One row for people: line, score, verdict, seconds, cause."""
    if "problem" in row:
        return f"{row['line']:>7}       -  {'problem':<11}        -  {row['problem']}"
    score = "     -" if row["score"] is None else f"{row['score']:6.3g}"
    return f"{row['line']:>7}  {score}  {row['status']:<11}{row['seconds']:9.4f}  {row['cause']}".rstrip()
