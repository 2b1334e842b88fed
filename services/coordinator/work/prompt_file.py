"""Prompt files: a prompt with its gold answer in each row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from syncline.data_rows import BadRow, DataRow, Prompt, answer_of, is_prompt, rows_of
from syncline.errors import FieldProblem, InvalidSpec
from syncline.rewardspec import RewardSpec


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a prompt file. A string prompt goes to the model as it is, messages by its chat template."""

    prompt: Prompt
    answer: str
    line: int = field(default=0, compare=False)
    """Where it stands in its file."""


def read_rows(path: Path, *, field: str, reward: RewardSpec) -> list[Row]:
    """Read and check a file of prompts. Raises InvalidSpec naming `field` and the line."""
    rows: list[Row] = []
    for found in rows_of(path, field=field):
        row = _row(found, reward=reward) if isinstance(found, DataRow) else found
        if isinstance(row, BadRow):
            raise _invalid(field, f"{path.name} line {row.line} {row.problem}", row.allowed)
        rows.append(row)
    if not rows:
        raise _invalid(field, f"{path} holds no rows", "a file with at least one prompt")
    return rows


def digest_of(rows: Sequence[Row]) -> str:
    """SHA-256 of prompts and answers in their order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps([row.prompt, row.answer]).encode())
    return digest.hexdigest()


def _row(found: DataRow, *, reward: RewardSpec) -> Row | BadRow:
    prompt = found.fields.get("prompt")
    if not is_prompt(prompt):
        missing = "prompt" not in found.fields
        problem = "has no `prompt`" if missing else "has a `prompt` that is neither text nor messages"
        return BadRow(found.line, problem, 'a non-empty string, or [{"role": ..., "content": ...}, ...]')
    answer = answer_of(found)
    if isinstance(answer, BadRow):
        return answer
    if reward.type == "math" and not answer.strip():
        return BadRow(found.line, "has no `answer`", "a gold answer in every row of a task with a math reward")
    return Row(prompt, answer, found.line)


def _invalid(field: str, problem: str, allowed: str) -> InvalidSpec:
    return InvalidSpec([FieldProblem(field, problem, allowed)])
