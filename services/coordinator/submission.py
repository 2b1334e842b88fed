"""Checks a run spec against the world: files, model, rewards. What passes here can start."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from services.coordinator import locations, seed_model
from services.coordinator.locations import FindCheckpoint, Located, data_file
from services.coordinator.prompts import Row, check_room, read_rows
from services.coordinator.rollout_file import Reader, RolloutFile, open_rollouts
from services.coordinator.settings import CoordinatorSettings
from syncline.cache import Cache
from syncline.errors import FieldProblem, InvalidSpec
from syncline.runspec import Evaluation, RunSpec, Task
from syncline.seeds import Seed

Result = TypeVar("Result")


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
    problems: list[FieldProblem] = []

    def attempt(check: Callable[[], Result]) -> Result | None:
        try:
            return check()
        except InvalidSpec as error:
            problems.extend(error.problems)
            return None

    seed = attempt(lambda: locations.seed_model(spec.model.path, settings, cache, find_checkpoint))
    context = attempt(lambda: seed_model.check(seed)) if seed else None
    rollouts = attempt(lambda: _rollouts(spec, settings, cache, seed.folder, context)) if seed and context else None
    prompted = () if spec.rollouts.source else spec.tasks  # what a file brings is generated and scored already
    parts: list[tuple[str, Task | Evaluation]] = [
        *((f"tasks.{index}", task) for index, task in enumerate(prompted)),
        *((f"evaluation.{index}", evaluation) for index, evaluation in enumerate(spec.evaluation)),
    ]
    files: dict[str, Located] = {}
    rows: dict[str, list[Row]] = {}
    for field, part in parts:
        file = attempt(lambda: _prompts(part, settings, cache, field=f"{field}.data"))  # noqa: B023 - called at once
        found = attempt(lambda: read_rows(file.path, field=f"{field}.data", reward=part.reward)) if file else None  # noqa: B023
        if file and found:
            files[field], rows[field] = file, found
            if seed and context:
                tokens = spec.max_tokens_of(part)
                attempt(lambda: _usable(found, seed.folder, context, max_tokens=tokens, field=f"{field}.data"))  # noqa: B023
        if rewards is not None and part.reward.offer not in rewards:
            problems.append(
                FieldProblem(
                    f"{field}.reward",
                    f"no running reward service offers {part.reward.offer!r}",
                    ", ".join(sorted(rewards)) or "nothing at the moment",
                )
            )
        if context is not None and spec.max_tokens_of(part) >= context:
            where = f"{field}.max_tokens" if part.max_tokens is not None else "generation.max_tokens"
            problem = FieldProblem(
                where,
                f"{spec.max_tokens_of(part)} tokens do not fit the model's context of {context} beside a prompt",
                f"at most {context - 1}, less the longest prompt",
            )
            if problem not in problems:
                problems.append(problem)
    if problems or seed is None or context is None:
        raise InvalidSpec(problems)
    return Prepared(
        spec=spec.model_copy(
            update={
                "model": spec.model.model_copy(update={"path": seed.path}),
                "rollouts": spec.rollouts.model_copy(update={"source": rollouts.origin.path if rollouts else None}),
                "tasks": tuple(
                    task.model_copy(update={"data": files[field].origin}) if field in files else task
                    for field, task in ((f"tasks.{index}", task) for index, task in enumerate(spec.tasks))
                ),
                "evaluation": tuple(
                    evaluation.model_copy(update={"data": files[f"evaluation.{index}"].origin})
                    for index, evaluation in enumerate(spec.evaluation)
                ),
            }
        ),
        seed=seed,
        context=context,
        rows={task.name: rows[f"tasks.{index}"] for index, task in enumerate(prompted)},
        rollouts=rollouts,
        evaluation_rows={
            evaluation.name: rows[f"evaluation.{index}"] for index, evaluation in enumerate(spec.evaluation)
        },
    )


def _prompts(part: Task | Evaluation, settings: CoordinatorSettings, cache: Cache, *, field: str) -> Located:
    file = data_file(part.data or "", settings, cache, field=field)
    if not file.path.is_file():
        problem = "is a folder" if file.path.is_dir() else "does not exist"
        raise InvalidSpec([FieldProblem(field, f"{file.path} {problem}", "a JSONL or Parquet file")])
    if file.path.suffix not in (".jsonl", ".parquet"):
        raise InvalidSpec([FieldProblem(field, f"{file.path.name} ends in {file.path.suffix!r}", ".jsonl or .parquet")])
    return file


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
