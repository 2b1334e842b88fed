"""A file of rollouts to train on: checked whole at submission, then read row by row where it lies.

Only offsets are kept in memory, so a file may be larger than that. One that ends in .gz is unpacked once, to a
temporary file without a name.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import tempfile
import weakref
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydantic import BaseModel, ConfigDict, ValidationError

from services.coordinator.work.prompts import Encode
from services.coordinator.work.seed_model import Decode
from syncline.errors import FieldProblem, InvalidSpec, RunFailed
from syncline.rollout_rows import RolloutRow
from syncline.run_parts import Task
from syncline.runspec import RunSpec
from syncline.spec_problems import problems_in_json

_FIELD = "rollouts.from"
_ROWS = "rows as `syncline export rollouts` writes them"
_SHOWN = 60


class Origin(BaseModel):
    """Which file a run trains on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    sha256: str
    groups: dict[str, int]
    """By task."""


@dataclass(frozen=True, slots=True)
class Reader:
    """The model as a file must fit it."""

    context: int
    """Tokens of a prompt and its completion together."""
    vocabulary: int
    """Token ids are below this."""
    encode: Encode
    decode: Decode


@dataclass(frozen=True, slots=True)
class Span:
    """Where a row lies."""

    offset: int
    length: int


class RolloutFile:
    """The checked rows of a file, by task, in their order. The file stays open, so that what was checked is what
    trains even when another file takes its name; it is closed when nobody holds this any more."""

    def __init__(
        self,
        file: BinaryIO,
        *,
        origin: Origin,
        rows: Mapping[str, Sequence[Span]],
        too_long: Mapping[str, int],
        versions: Collection[int],
    ) -> None:
        self._file = file
        weakref.finalize(self, file.close)
        self.origin = origin
        self.rows = rows
        self.too_long = dict(too_long)
        """Rows left out, as prompt and completion exceed the model's context, by task."""

        self._versions = versions

    @property
    def warnings(self) -> list[FieldProblem]:
        """What is odd about the rows without being a reason to refuse them."""
        if len(self._versions) < 2:
            return []
        first, last = min(self._versions), max(self._versions)
        problem = (
            f"{self.origin.path} has rollouts of {len(self._versions)} versions, {first} to {last}: they are not of "
            "one fixed policy, and the run treats all of them as of its version 0"
        )
        return [FieldProblem(_FIELD, problem, "the export of an offline run (sync.period: never), or of one version")]

    def read(self, span: Span) -> RolloutRow:
        """One row. Raises RunFailed when the file was changed in place since it was checked."""
        try:
            return RolloutRow.model_validate_json(os.pread(self._file.fileno(), span.length, span.offset))
        except (ValidationError, OSError) as error:
            raise RunFailed(
                f"{self.origin.path} was changed while the run trains on it; submit the run again"
            ) from error


def open_rollouts(path: Path, spec: RunSpec, reader: Reader, *, origin: str = "") -> RolloutFile:
    """Check every row of a .jsonl or .jsonl.gz file against the spec and the model.

    `origin` is where the file comes from, if it is a copy.

    The proof that tokens fit the tokenizer is that they read as the recorded text: it holds for files from anywhere,
    and costs about a second for each million tokens. Raises InvalidSpec with the line and the reason.
    """
    file, digest = _open(path)
    try:
        return _checked(file, path, spec, reader, origin=origin or str(path), digest=digest)
    except BaseException:
        file.close()
        raise


def _checked(file: BinaryIO, path: Path, spec: RunSpec, reader: Reader, *, origin: str, digest: str) -> RolloutFile:
    tasks = {task.name: task for task in spec.tasks}
    rows: dict[str, list[Span]] = {name: [] for name in tasks}
    too_long = Counter(dict.fromkeys(tasks, 0))
    versions: set[int] = set()
    offset = 0
    for number, line in enumerate(file, start=1):
        if line.strip():
            where = f"{path.name} line {number}"
            row = _parse(line, where)
            _check(row, where=where, tasks=tasks, reader=reader)
            if _length(row) > reader.context:
                too_long[row.task] += 1
            else:
                rows[row.task].append(Span(offset, len(line)))
                versions.add(row.version)
        offset += len(line)
    _enough(path, spec, rows, too_long)
    groups = {name: len(spans) for name, spans in rows.items()}
    found = Origin(path=origin, sha256=digest, groups=groups)
    return RolloutFile(file, origin=found, rows=rows, too_long=too_long, versions=versions)


def _open(path: Path) -> tuple[BinaryIO, str]:
    """The plain rows, and the SHA-256 of the file as it lies."""
    if not path.is_file():
        raise _refused(
            f"{path} {'is a folder' if path.is_dir() else 'does not exist'}", "a .jsonl or .jsonl.gz file of rollouts"
        )
    if not path.name.endswith((".jsonl", ".jsonl.gz")):
        raise _refused(f"{path.name} is of another kind", "a name that ends in .jsonl or .jsonl.gz")
    try:
        with ExitStack() as failing:
            file = failing.enter_context(path.open("rb"))
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            plain: BinaryIO = file
            if path.suffix == ".gz":
                plain = failing.enter_context(tempfile.TemporaryFile())
                with file, gzip.open(file) as packed:
                    shutil.copyfileobj(packed, plain)
                plain.seek(0)
            failing.pop_all()  # open as long as the run trains on it
            return plain, digest
    except (OSError, EOFError) as error:
        raise _refused(f"{path} cannot be read ({error})", "a readable file, and room to unpack it") from error


def _parse(line: bytes, where: str) -> RolloutRow:
    try:
        return RolloutRow.model_validate_json(line)
    except ValidationError as error:
        first = problems_in_json(error, line, RolloutRow)[0]
        raise _refused(f"{where}: {first.path}: {first.problem}", f"{_ROWS} ({first.allowed})") from None


def _check(row: RolloutRow, *, where: str, tasks: Mapping[str, Task], reader: Reader) -> None:
    if row.task not in tasks:
        raise _refused(f"{where} belongs to task {row.task!r}, which the spec does not have", ", ".join(tasks))
    if len(row.samples) < 2:
        raise _refused(f"{where} has {len(row.samples)} samples; there is nothing to compare", "at least 2 in each row")
    if tasks[row.task].pair_rule.type == "random" and (odd := [r for r in row.rewards.values() if r not in (0.0, 1.0)]):
        raise _refused(
            f"{where} has a reward of {odd[0]:g}, and task {row.task!r} takes random pairs of right (1) and wrong (0)",
            "pairs: {type: best_vs_worst} for this task",
        )
    _check_tokens(row, where=where, reader=reader)


def _check_tokens(row: RolloutRow, *, where: str, reader: Reader) -> None:
    """That the model's tokenizer makes the same of the ids as the one that made them."""
    completions = [sample.token_ids for sample in row.samples]
    largest = max(max(ids) for ids in (row.prompt_token_ids, *completions))
    allowed = "rollouts whose token ids are those of the model's own tokenizer"
    if largest >= reader.vocabulary:
        problem = f"{where} has token {largest}, and the model's vocabulary ends at {reader.vocabulary - 1}"
        raise _refused(problem, allowed)
    for index, (sample, text) in enumerate(zip(row.samples, reader.decode(completions), strict=True)):
        if text != sample.text:
            raise _refused(
                f"{where}: the tokens of sample {index} read {_short(text)} with the model's tokenizer, "
                f"and the file says {_short(sample.text)}",
                allowed,
            )
    # Messages are not encoded again: a chat template may write today's date into its text.
    if isinstance(row.prompt, str) and (ids := reader.encode(row.prompt)[0]) != tuple(row.prompt_token_ids):
        raise _refused(
            f"{where}: the model's tokenizer makes {len(ids)} tokens {_short(list(ids))} of the prompt, "
            f"and the file says {_short(row.prompt_token_ids)}",
            allowed,
        )


def _enough(path: Path, spec: RunSpec, rows: Mapping[str, Sequence[Span]], too_long: Mapping[str, int]) -> None:
    for name, spans in rows.items():
        if not spans:
            problem = f"{path.name} has no row of task {name!r}"
            if too_long[name]:
                problem += f" that fits the model's context ({too_long[name]} are too long)"
            raise _refused(problem, "rows of every task of the spec, or a spec without this task")
    if (count := sum(len(spans) for spans in rows.values())) < spec.prompts_per_step:
        problem = f"{path.name} has {count} rows, and one step takes {spec.prompts_per_step}"
        raise _refused(problem, f"at least {spec.prompts_per_step} rows, or a smaller prompts_per_step")


def _length(row: RolloutRow) -> int:
    return len(row.prompt_token_ids) + max(len(sample.token_ids) for sample in row.samples)


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."


def _refused(problem: str, allowed: str) -> InvalidSpec:
    return InvalidSpec([FieldProblem(_FIELD, problem, allowed)])
