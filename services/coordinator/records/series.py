"""Series of a run on disk: append-only JSON lines, whole rows or none, whatever dies or fills up in between."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from syncline import durable
from syncline.errors import StorageError

Series = Literal["events", "steps", "evaluations", "samples"]
SERIES: tuple[Series, ...] = ("events", "steps", "evaluations", "samples")
Row = dict[str, Any]


def file_of(folder: Path, name: Series) -> Path:
    """Where a series lies in the folder of a run."""
    return folder / f"{name}.jsonl"


def read(path: Path) -> list[Row]:
    """Rows of a file; a last line that a crash cut short is dropped, as it was never answered for."""
    if not path.is_file():
        return []
    rows: list[Row] = []
    whole = 0
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            row = json.loads(line)
        except ValueError:
            break
        if not line.endswith(b"\n"):
            break
        rows.append(row)
        whole += len(line)
    if whole < path.stat().st_size:
        os.truncate(path, whole)  # not rewritten: the disk may be full
    return rows


def append(path: Path, rows: Sequence[Row]) -> None:
    """Append all rows or none. Raises StorageError."""
    with storing(path):
        _append(path, _lines(rows).encode())


def rewrite(path: Path, rows: Sequence[Row]) -> None:
    """Put these rows in place of all others. Raises StorageError."""
    with storing(path):
        durable.write_text(path, _lines(rows))


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """An OSError of the block, as the StorageError that says what to do."""
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        remedy = "free space or mend the storage, then resume the run"
        raise StorageError(f"{path} could not be written: {why}; {remedy}") from error


def _lines(rows: Sequence[Row]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _append(path: Path, data: bytes) -> None:
    """Append all of `data` or nothing. Raises OSError."""
    with path.open("ab", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        try:
            written = 0
            while written < len(data):
                written += file.write(data[written:])
        except OSError:
            file.truncate(size)
            raise
