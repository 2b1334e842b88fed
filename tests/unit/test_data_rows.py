"""Files of rows: whatever stands in a line, it is read as what it is or named with its line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from syncline.data_rows import BadRow, DataRow, answer_of, is_prompt, rows_of
from syncline.errors import InvalidSpec

GOOD = {"prompt": "1+1=", "answer": "2"}


def read(path: Path) -> list[DataRow | BadRow]:
    return list(rows_of(path, field="tasks.0.data"))


def file(folder: Path, data: bytes, *, name: str = "data.jsonl") -> Path:
    (folder / name).write_bytes(data)
    return folder / name


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'{"prompt": "\xe9"}', "is not UTF-8 (byte 0xe9 at 12)"),
        ('{"prompt": "a"}'.encode("utf-16"), "is not UTF-8 (byte 0xff at 0)"),
        (b'{"answer": ' + b"9" * 5_000 + b"}", "has a whole number of thousands of digits"),
        (b"[" * 100_000, "is nested too deeply"),
        (b'{"prompt": ', "is not JSON: Expecting value at"),
        (b"[1]", "is a list"),
        (b"7", "is a int"),
    ],
    ids=["Latin-1", "UTF-16", "thousands of digits", "nesting", "half a row", "a list", "a number"],
)
def test_a_line_that_is_no_row_is_named_and_the_next_one_is_read(tmp_path: Path, line: bytes, problem: str) -> None:
    bad, *rest, good = read(file(tmp_path, line + b"\n\n" + json.dumps(GOOD).encode() + b"\n"))
    assert isinstance(bad, BadRow)
    assert bad.line == 1
    assert bad.problem.startswith(problem)
    # a blank line is no row, and counts as a line
    assert good == DataRow(3, GOOD)
    assert all(isinstance(one, BadRow) and one.line == 2 for one in rest), "the second byte of a UTF-16 line end"


def test_a_byte_order_mark_and_windows_line_ends_are_no_part_of_a_row(tmp_path: Path) -> None:
    rows = read(file(tmp_path, b"\xef\xbb\xbf" + b"\r\n".join([json.dumps(GOOD).encode()] * 2) + b"\r\n"))
    assert rows == [DataRow(1, GOOD), DataRow(2, GOOD)]


def test_packed_and_parquet_files_read_like_plain_ones(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    rows: list[dict[str, Any]] = [GOOD, {"prompt": "2+2=", "answer": "4"}]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "data.parquet")
    plain = read(file(tmp_path, lines))
    assert plain == [DataRow(1, rows[0]), DataRow(2, rows[1])]
    assert read(file(tmp_path, gzip.compress(lines), name="data.jsonl.gz")) == plain
    assert read(tmp_path / "data.parquet") == plain


@pytest.mark.parametrize(
    ("name", "data", "problem"),
    [
        ("data.csv", b"", "data.csv ends in '.csv'"),
        ("data.parquet", b"nope", "is not a Parquet file"),
        ("data.jsonl.gz", b"nope", "cannot be read"),
        ("data.jsonl.gz", gzip.compress(b'{"prompt": "a"}\n' * 99)[:-20], "cannot be read"),
    ],
    ids=["another kind", "no Parquet", "not packed", "cut off"],
)
def test_a_file_that_cannot_be_read_is_refused_by_its_field(
    tmp_path: Path, name: str, data: bytes, problem: str
) -> None:
    with pytest.raises(InvalidSpec, match=r"tasks\.0\.data") as refused:
        read(file(tmp_path, data, name=name))
    assert problem in str(refused.value)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("2", "2"),
        (2, "2"),
        (0.5, "0.5"),
        (1e-05, "0.00001"),
        (1e20, "1" + "0" * 20),
        (-2e-7, "-0.0000002"),
        (None, ""),
        ("", ""),
    ],
)
def test_a_gold_answer_is_text_or_a_number(answer: object, text: str) -> None:
    assert answer_of(DataRow(1, {"answer": answer})) == text


@pytest.mark.parametrize(
    ("answer", "what"),
    [(True, "a bool"), (["1"], "a list"), ({"a": 1}, "a dict"), (float("nan"), "nan"), (float("inf"), "inf")],
)
def test_what_is_no_gold_answer_is_named(answer: object, what: str) -> None:
    bad = answer_of(DataRow(7, {"answer": answer}))
    assert bad == BadRow(7, f"has an `answer` that is {what}", "text, or a finite number")


@pytest.mark.parametrize(
    ("prompt", "is_one"),
    [
        ("1+1=", True),
        ([{"role": "user", "content": "1+1="}], True),
        ("", False),
        ([], False),
        ([{"role": "user"}], False),
        ([{"role": 1, "content": "1+1="}], False),
        ([{"role": "user", "content": None}], False),
        (3, False),
    ],
)
def test_a_prompt_is_text_or_messages(prompt: object, is_one: bool) -> None:
    assert is_prompt(prompt) is is_one
