"""Rows of prompt files, as training and `syncline score` both read them: JSONL, JSONL packed by gzip, Parquet.

A row that cannot be read is told apart from one that can, so that whoever reads a file may refuse it or go on.
"""

from __future__ import annotations

import codecs
import gzip
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeGuard

from syncline.documents import from_json
from syncline.errors import FieldProblem, InvalidSpec

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")

Prompt = str | list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class DataRow:
    """One row, by its line in the file; in a Parquet file, by its number."""

    line: int
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class BadRow:
    """One row that cannot be read."""

    line: int
    problem: str
    allowed: str


def rows_of(path: Path, *, field: str) -> Iterator[DataRow | BadRow]:
    """Every row that is not blank. Raises InvalidSpec naming `field` when the file as a whole cannot be read."""
    if not path.name.endswith(SUFFIXES):
        ends = path.suffix or "nothing"
        raise _refused(field, f"{path.name} ends in {ends!r}", ", ".join(SUFFIXES))
    try:
        if path.suffix == ".parquet":
            yield from _parquet(path, field)
        else:
            with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
                yield from _json_lines(lines)
    except (OSError, EOFError, zlib.error) as error:
        raise _refused(field, f"{path} cannot be read ({error})", f"a whole, readable {path.suffix} file") from error


def _parquet(path: Path, field: str) -> Iterator[DataRow | BadRow]:
    from pyarrow import ArrowInvalid, parquet

    try:
        with parquet.ParquetFile(path) as file:
            fields = (row for batch in file.iter_batches() for row in batch.to_pylist())
            for line, one in enumerate(fields, start=1):
                yield DataRow(line, one)
    except ArrowInvalid as error:
        raise _refused(field, f"{path} is not a Parquet file ({error})", "Parquet or JSONL") from error


def _json_lines(lines: Iterable[bytes]) -> Iterator[DataRow | BadRow]:
    for line, data in enumerate(lines, start=1):
        text = data.removeprefix(codecs.BOM_UTF8) if line == 1 else data
        if text.strip():
            yield _json_row(line, text)


def _json_row(line: int, data: bytes) -> DataRow | BadRow:
    try:
        fields = from_json(data.decode("utf-8").strip(), where="")
    except UnicodeDecodeError as error:
        return BadRow(line, f"is not UTF-8 (byte 0x{data[error.start]:02x} at {error.start})", "text in UTF-8")
    except InvalidSpec as error:
        return BadRow(line, error.problems[0].problem, "one JSON object a line")
    if not isinstance(fields, dict):
        return BadRow(line, f"is a {type(fields).__name__}", 'an object like {"prompt": ..., "answer": ...}')
    return DataRow(line, fields)


def answer_of(row: DataRow) -> str | BadRow:
    """The gold answer as text; empty where there is none. A number is written out: 0.00001, not 1e-05."""
    answer = row.fields.get("answer")
    if answer is None or isinstance(answer, str):
        return answer or ""
    number = isinstance(answer, int | float) and not isinstance(answer, bool)
    if number and math.isfinite(answer):
        return format(Decimal(str(answer)), "f")
    what = f"{answer}" if number else f"a {type(answer).__name__}"
    return BadRow(row.line, f"has an `answer` that is {what}", "text, or a finite number")


def is_prompt(prompt: object) -> TypeGuard[Prompt]:
    """Whether something is a text, or a conversation."""
    if isinstance(prompt, str):
        return prompt != ""
    return isinstance(prompt, list) and len(prompt) > 0 and all(_is_message(message) for message in prompt)


def _is_message(message: object) -> bool:
    return isinstance(message, dict) and all(isinstance(message.get(key), str) for key in ("role", "content"))


def _refused(field: str, problem: str, allowed: str) -> InvalidSpec:
    return InvalidSpec([FieldProblem(field, problem, allowed)])
