"""Checks a run spec against the world: files, model, rewards. What passes here can start."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from services.coordinator.settings import CoordinatorSettings
from services.coordinator.submission import locations
from services.coordinator.submission.locations import FindCheckpoint, data_file
from services.coordinator.submission.reward_check import not_offered
from services.coordinator.work import seed_model
from services.coordinator.work.prompt_file import Row, digest_of, read_rows
from services.coordinator.work.prompts import check_room
from services.coordinator.work.rollout_file import Reader, RolloutFile, open_rollouts
from syncline.cache import Cache
from syncline.errors import FieldProblem, InvalidSpec
from syncline.run_parts import Evaluation, Task
from syncline.runspec import RunSpec
from syncline.seeds import Seed

Result = TypeVar("Result")
Part = TypeVar("Part", Task, Evaluation)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A spec whose paths are absolute, with the rows of its files."""

    spec: RunSpec
    """As it was when it was checked; a run that waits for its turn can get another sync period in the meantime."""
    seed: Seed
    """The seed model, as the coordinator needs it: without weights."""
    context: int
    """Context length of the model in tokens."""
    rows: Mapping[str, Sequence[Row]]
    """By task name; empty where the rollouts come from a file."""
    rollouts: RolloutFile | None
    """The file that the run trains on, if it does."""
    evaluation_rows: Mapping[str, Sequence[Row]]
    """By evaluation name."""

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 of what each file holds, by the field of the spec that names it: a resumed run must find the same."""
        return {f"{field}.data": digest_of(rows) for field, rows in self.rows_by_field.items() if rows}

    @property
    def rows_by_field(self) -> dict[str, Sequence[Row]]:
        """Every row, by the field of the spec that names its file: tasks.0, evaluation.1."""
        return {
            **{f"tasks.{index}": self.rows.get(task.name, ()) for index, task in enumerate(self.spec.tasks)},
            **{f"evaluation.{index}": self.evaluation_rows[one.name] for index, one in enumerate(self.spec.evaluation)},
        }


def prepare(
    spec: RunSpec,
    settings: CoordinatorSettings,
    *,
    cache: Cache,
    rewards: frozenset[str] | None,
    find_checkpoint: FindCheckpoint,
) -> Prepared:
    """Resolve and read everything that the spec names.

    `rewards` are what the live reward services offer; None when none is live yet.
    Raises InvalidSpec with every problem found, so that one round of mending is enough, and StoreUnreachable.
    """
    found = _Problems()
    seed = found.of(lambda: locations.seed_model(spec.model.path, settings, cache, find_checkpoint))
    context = found.of(lambda: seed_model.check(seed)) if seed else None
    rollouts = found.of(lambda: _rollouts(spec, settings, cache, seed.folder, context)) if seed and context else None
    files: dict[str, _Prompts] = {}
    for field, part in _parts_with_prompts(spec).items():
        prompts = found.of(lambda: _read(part, settings, cache, field=f"{field}.data"))  # noqa: B023 - called at once
        if prompts:
            files[field] = prompts
        if seed and context:
            found.add(_without_room(spec, field, part, context=context))
        if prompts and seed and context:
            tokens = spec.max_tokens_of(part)
            found.of(lambda: _usable(prompts.rows, seed.folder, context, max_tokens=tokens, field=f"{field}.data"))  # noqa: B023
        if rewards is not None:
            found.add(not_offered(field, part.reward, rewards))
    if found.problems or seed is None or context is None:
        raise InvalidSpec(found.problems)
    return Prepared(
        spec=_resolved(spec, seed=seed, rollouts=rollouts, files=files),
        seed=seed,
        context=context,
        rows={
            task.name: files[field].rows
            for index, task in enumerate(spec.tasks)
            if (field := f"tasks.{index}") in files
        },
        rollouts=rollouts,
        evaluation_rows={one.name: files[f"evaluation.{index}"].rows for index, one in enumerate(spec.evaluation)},
    )


class _Problems:
    """What is wrong so far, each once."""

    def __init__(self) -> None:
        self.problems: list[FieldProblem] = []

    def of(self, check: Callable[[], Result]) -> Result | None:
        """The result of a check, or None and what it refuses."""
        try:
            return check()
        except InvalidSpec as error:
            self.add(error.problems)
            return None

    def add(self, problems: Iterable[FieldProblem]) -> None:
        self.problems.extend(problem for problem in problems if problem not in self.problems)


@dataclass(frozen=True, slots=True)
class _Prompts:
    """The file of a task or of an evaluation."""

    origin: str
    """Where it is, for the record of the run."""
    rows: Sequence[Row]


def _parts_with_prompts(spec: RunSpec) -> dict[str, Task | Evaluation]:
    """By field. What a file of rollouts brings is generated and scored already: then no task has prompts."""
    prompted = () if spec.rollouts.source else spec.tasks
    return {
        **{f"tasks.{index}": task for index, task in enumerate(prompted)},
        **{f"evaluation.{index}": evaluation for index, evaluation in enumerate(spec.evaluation)},
    }


def _resolved(spec: RunSpec, *, seed: Seed, rollouts: RolloutFile | None, files: Mapping[str, _Prompts]) -> RunSpec:
    """The same run with the places of its model and files written out."""

    def placed(kind: str, parts: Sequence[Part]) -> tuple[Part, ...]:
        fields = {f"{kind}.{index}": part for index, part in enumerate(parts)}
        return tuple(
            part.model_copy(update={"data": files[field].origin}) if field in files else part
            for field, part in fields.items()
        )

    return spec.model_copy(
        update={
            "model": spec.model.model_copy(update={"path": seed.path}),
            "rollouts": spec.rollouts.model_copy(update={"source": rollouts.origin.path if rollouts else None}),
            "tasks": placed("tasks", spec.tasks),
            "evaluation": placed("evaluation", spec.evaluation),
        }
    )


def _read(part: Task | Evaluation, settings: CoordinatorSettings, cache: Cache, *, field: str) -> _Prompts:
    file = data_file(part.data or "", settings, cache, field=field)
    if not file.path.is_file():
        problem = "is a folder" if file.path.is_dir() else "does not exist"
        raise InvalidSpec([FieldProblem(field, f"{file.path} {problem}", "a JSONL or Parquet file")])
    return _Prompts(file.origin, read_rows(file.path, field=field, reward=part.reward))


def _without_room(spec: RunSpec, field: str, part: Task | Evaluation, *, context: int) -> Iterator[FieldProblem]:
    """A completion must leave room for its prompt."""
    if (tokens := spec.max_tokens_of(part)) >= context:
        where = f"{field}.max_tokens" if part.max_tokens is not None else "generation.max_tokens"
        problem = f"{tokens} tokens do not fit the model's context of {context} beside a prompt"
        yield FieldProblem(where, problem, f"at most {context - 1}, less the longest prompt")


def _rollouts(
    spec: RunSpec, settings: CoordinatorSettings, cache: Cache, folder: Path, context: int
) -> RolloutFile | None:
    if spec.rollouts.source is None:
        return None
    file = data_file(spec.rollouts.source, settings, cache, field="rollouts.from")
    reader = Reader(
        context=context,
        vocabulary=seed_model.vocabulary(folder),
        encode=seed_model.encoder(folder),
        decode=seed_model.decoder(folder),
    )
    return open_rollouts(file.path, spec, reader, origin=file.origin)


def _usable(rows: Sequence[Row], folder: Path, context: int, *, max_tokens: int, field: str) -> None:
    """That the model takes these prompts, or some of them: others are skipped and counted."""
    if not all(isinstance(row.prompt, str) for row in rows) and not seed_model.has_chat_template(folder):
        raise InvalidSpec(
            [FieldProblem(field, "prompts are messages, but the model has no chat template", "prompts that are text")]
        )
    if max_tokens < context:
        check_room(rows, seed_model.encoder(folder), context=context, max_tokens=max_tokens, field=field)
