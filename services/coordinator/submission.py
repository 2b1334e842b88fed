"""Checks a run spec against the world: files, model, rewards. What passes here can start."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from services.coordinator import seed_model
from services.coordinator.prompts import Row, read_rows
from services.coordinator.rollout_file import Reader, RolloutFile, open_rollouts
from services.coordinator.settings import CoordinatorSettings
from syncline import checkpoints
from syncline.errors import CheckpointError, FieldProblem, InvalidSpec, NotFound
from syncline.runspec import Evaluation, RunSpec, Task

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Prepared:
    """A spec whose paths are absolute, with the rows of its files."""

    spec: RunSpec
    """As it was when it was checked; a run that waits for its turn can get another sync period in the meantime."""
    context: int
    """Context length of the model in tokens."""
    rows: Mapping[str, Sequence[Row]]
    """By task name; empty where the rollouts come from a file."""
    rollouts: RolloutFile | None
    """The file that the run trains on, if it does."""
    evaluation_rows: Mapping[str, Sequence[Row]]
    """By evaluation name."""


FindCheckpoint = Callable[[str, str], Path]
"""Run id and "final", "best" or "v<version>" -> published folder. Raises NotFound, saying what there is."""


def prepare(
    spec: RunSpec,
    settings: CoordinatorSettings,
    *,
    rewards: frozenset[str] | None,
    find_checkpoint: FindCheckpoint,
) -> Prepared:
    """Resolve and read everything that the spec names.

    `rewards` are what the live reward services offer; None when none is live yet.
    Raises InvalidSpec with every problem found, so that one round of mending is enough.
    """
    problems: list[FieldProblem] = []

    def attempt(check: Callable[[], Result]) -> Result | None:
        try:
            return check()
        except InvalidSpec as error:
            problems.extend(error.problems)
            return None

    folder = attempt(lambda: model_folder(spec.model.path, settings, find_checkpoint))
    context = attempt(lambda: seed_model.check(folder)) if folder else None
    rollouts = attempt(lambda: _rollouts(spec, settings, folder, context)) if folder and context else None
    prompted = () if spec.rollouts.source else spec.tasks  # what a file brings is generated and scored already
    parts: list[tuple[str, Task | Evaluation]] = [
        *((f"tasks.{index}", task) for index, task in enumerate(prompted)),
        *((f"evaluation.{index}", evaluation) for index, evaluation in enumerate(spec.evaluation)),
    ]
    paths: dict[str, Path] = {}
    rows: dict[str, list[Row]] = {}
    for field, part in parts:
        path = attempt(lambda: _data_file(part.data or "", settings, field=f"{field}.data"))  # noqa: B023 - called at once
        found = attempt(lambda: read_rows(path, field=f"{field}.data", reward=part.reward)) if path else None  # noqa: B023
        if path and found:
            paths[field], rows[field] = path, found
            if folder and context and not all(isinstance(row.prompt, str) for row in found):
                attempt(lambda: _can_chat(folder, f"{field}.data"))  # noqa: B023
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
    if problems or folder is None or context is None:
        raise InvalidSpec(problems)
    return Prepared(
        spec=spec.model_copy(
            update={
                "model": spec.model.model_copy(update={"path": str(folder)}),
                "rollouts": spec.rollouts.model_copy(update={"source": rollouts.origin.path if rollouts else None}),
                "tasks": tuple(
                    task.model_copy(update={"data": str(paths[field])}) if field in paths else task
                    for field, task in ((f"tasks.{index}", task) for index, task in enumerate(spec.tasks))
                ),
                "evaluation": tuple(
                    evaluation.model_copy(update={"data": str(paths[f"evaluation.{index}"])})
                    for index, evaluation in enumerate(spec.evaluation)
                ),
            }
        ),
        context=context,
        rows={task.name: rows[f"tasks.{index}"] for index, task in enumerate(prompted)},
        rollouts=rollouts,
        evaluation_rows={
            evaluation.name: rows[f"evaluation.{index}"] for index, evaluation in enumerate(spec.evaluation)
        },
    )


def model_folder(text: str, settings: CoordinatorSettings, find_checkpoint: FindCheckpoint) -> Path:
    """The seed model: a folder under a root, or another run's checkpoint, as in run://RUN/final or run://RUN/best,
    every byte of which is verified."""
    if not text.startswith("run://"):
        roots = (settings.model_root, settings.run_root)  # a resumed run's seed may be a checkpoint of another run
        inside = [root for root in roots if (root.resolve() / text).resolve().is_relative_to(root.resolve())]
        return resolve(text, inside[0] if inside else settings.model_root, field="model.path")
    run_id, _, which = text.removeprefix("run://").partition("/")
    try:
        folder = find_checkpoint(run_id, which or "final")
        checkpoints.verify_folder(folder)
        return folder
    except (NotFound, CheckpointError) as error:
        raise InvalidSpec(
            [FieldProblem("model.path", error.message, "run://RUN/final, run://RUN/best or run://RUN/v50")]
        ) from error


def resolve(text: str, root: Path, *, field: str) -> Path:
    """The absolute path that `text` means: under `root`, symbolic links resolved. Raises InvalidSpec otherwise."""
    if "://" in text:
        raise InvalidSpec([FieldProblem(field, f"{text} is not supported", f"a path under {root}")])
    base = root.resolve()
    path = (base / text).resolve()
    if not path.is_relative_to(base):
        raise InvalidSpec([FieldProblem(field, f"{path} lies outside the configured root", f"a path under {base}")])
    return path


def _data_file(text: str, settings: CoordinatorSettings, *, field: str) -> Path:
    path = resolve(text, settings.data_root, field=field)
    if not path.is_file():
        raise InvalidSpec([FieldProblem(field, f"{path} does not exist", "a JSONL or Parquet file")])
    if path.suffix not in (".jsonl", ".parquet"):
        raise InvalidSpec([FieldProblem(field, f"{path.name} ends in {path.suffix!r}", ".jsonl or .parquet")])
    return path


def _rollouts(spec: RunSpec, settings: CoordinatorSettings, folder: Path, context: int) -> RolloutFile | None:
    if spec.rollouts.source is None:
        return None
    path = resolve(spec.rollouts.source, settings.data_root, field="rollouts.from")
    reader = Reader(
        context=context,
        vocabulary=seed_model.vocabulary(folder),
        encode=seed_model.encoder(folder),
        decode=seed_model.decoder(folder),
    )
    return open_rollouts(path, spec, reader)


def _can_chat(folder: Path, field: str) -> None:
    if not seed_model.has_chat_template(folder):
        raise InvalidSpec(
            [FieldProblem(field, "prompts are messages, but the model has no chat template", "prompts that are text")]
        )
