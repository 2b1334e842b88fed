"""The run spec: everything that describes a run, checked before anything starts.

Unknown keys are refused. Each algorithm is a model of its own, so an option that an
algorithm does not have is refused like any unknown key.

Importing this module loads pydantic and nothing heavier.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from syncline.algo.schedule import Change, Period, Schedule
from syncline.algorithmspec import AlgorithmSpec
from syncline.errors import Conflict, FieldProblem, InvalidSpec
from syncline.rewardspec import JudgeSpec
from syncline.run_parts import (
    Best,
    Checkpoints,
    Evaluation,
    Generation,
    Model,
    Optimizer,
    Reference,
    Rollouts,
    Steps,
    Sync,
    SyncChange,
    Task,
)
from syncline.spec_part import Name, Part
from syncline.spec_problems import problems_in_json, problems_of

MOST_PROMPTS_PER_STEP = 65_536
MOST_SAMPLES_PER_STEP = 262_144


class RunSpec(Part):
    """One training job."""

    name: Name
    seed: int = Field(default=0, ge=0, lt=2**31)
    model: Model
    algorithm: AlgorithmSpec
    reference: Reference = Reference()
    sync: Sync = Sync()
    rollouts: Rollouts = Rollouts()
    steps: Steps
    prompts_per_step: int = Field(default=32, ge=1, le=MOST_PROMPTS_PER_STEP)
    generation: Generation = Generation()
    tasks: tuple[Task, ...] = Field(min_length=1)
    optimizer: Optimizer = Optimizer()
    evaluation: tuple[Evaluation, ...] = ()
    checkpoints: Checkpoints = Checkpoints()

    @model_validator(mode="after")
    def _parts_fit_together(self) -> RunSpec:
        problems = [
            *self._names_twice(),
            *self._size_problems(),
            *self._data_problems(),
            *self._reward_problems(),
            *self._sync_problems(),
            *self._algorithm_problems(),
            *self._importance_problems(),
            *self._warmup_problems(),
            *self._best_problems(),
        ]
        if problems:
            raise InvalidSpec(problems)
        return self

    def _names_twice(self) -> Iterator[FieldProblem]:
        for field, parts in (("tasks", self.tasks), ("evaluation", self.evaluation)):
            names = [part.name for part in parts]
            for index, name in enumerate(names):
                if name in names[:index]:
                    yield FieldProblem(f"{field}.{index}.name", f"{name!r} is used twice", "a name of its own for each")

    def _data_problems(self) -> Iterator[FieldProblem]:
        for index, task in enumerate(self.tasks):
            if task.data is None and self.rollouts.source is None:
                yield FieldProblem(f"tasks.{index}.data", "missing", "a file of prompts (or rollouts.from for the run)")

    def _size_problems(self) -> Iterator[FieldProblem]:
        samples = self.prompts_per_step * self.generation.samples_per_prompt
        if samples > MOST_SAMPLES_PER_STEP:
            problem = f"{self.prompts_per_step} prompts of {self.generation.samples_per_prompt} samples are {samples}"
            yield FieldProblem("prompts_per_step", problem, f"at most {MOST_SAMPLES_PER_STEP} samples a step")

    def _reward_problems(self) -> Iterator[FieldProblem]:
        for index, task in enumerate(self.tasks):
            if task.pair_rule.type == "random" and task.reward.graded:
                problem = f"random pairs need a reward of right or wrong, and this {task.reward.type!r} is graded"
                yield FieldProblem(f"tasks.{index}.pairs.type", problem, "'best_vs_worst' or 'all'")
            if isinstance(task.reward, JudgeSpec) and task.reward.mode == "versus_seed":
                problem = "versus_seed compares with the seed model's answers, which only evaluations have"
                yield FieldProblem(f"tasks.{index}.reward.mode", problem, "'pointwise' or 'pairwise'")
        for index, evaluation in enumerate(self.evaluation):
            reward = evaluation.reward
            if isinstance(reward, JudgeSpec) and reward.mode == "pairwise" and evaluation.samples < 2:
                problem = "pairwise compares the samples of a prompt with each other, and there is one"
                yield FieldProblem(f"evaluation.{index}.samples", problem, "at least 2, or the mode versus_seed")

    def _sync_problems(self) -> Iterator[FieldProblem]:
        periods = [
            ("sync.period", self.sync.period),
            *((f"sync.changes.{index}.period", change.period) for index, change in enumerate(self.sync.changes)),
        ]
        for field, period in periods:
            yield from self._period_problems(field, period)
        changes = [change.step for change in self.sync.changes]
        if changes != sorted(changes):
            yield FieldProblem("sync.changes", "steps are out of order", "changes in the order of their steps")
        else:
            yield from self._changes_without_a_window()
        if self.rollouts.source is not None and (self.sync.period != "never" or self.sync.changes):
            problem = "rollouts from a file are of one fixed policy, which never gets the learner's weights"
            yield FieldProblem("sync.period", problem, "never")

    def _changes_without_a_window(self) -> Iterator[FieldProblem]:
        changes = self.sync.changes
        for index, change in enumerate(changes):
            until_then = self.sync.model_copy(update={"changes": changes[: index + 1]})
            start = self.model_copy(update={"sync": until_then}).schedule().last_start
            if start >= self.steps:
                problem = (
                    f"the next window after step {change.step} begins at {start}, and the run ends after {self.steps}"
                )
                yield FieldProblem(f"sync.changes.{index}.step", problem, "a step before the start of the last window")

    def _period_problems(self, field: str, period: Period) -> Iterator[FieldProblem]:
        if period != "never" and period > self.steps:
            problem = f"{period} is more than the run's {self.steps} steps, so the generators would never be synced"
            yield FieldProblem(field, problem, f"at most {self.steps}, or never")

    def _algorithm_problems(self) -> Iterator[FieldProblem]:
        for found in self.algorithm.problems():
            yield replace(found, path=f"algorithm.{found.path}")
        if self.reference.sync and not self.algorithm.uses_reference:
            problem = "there is no reference without a KL term (algorithm.beta)"
            yield FieldProblem("reference.sync", problem, "false")

    def _importance_problems(self) -> Iterator[FieldProblem]:
        """Another temperature draws from another distribution than the one whose log-probabilities are reported, and a
        ratio to those would not weight what was drawn."""
        if self.rollouts.source is not None or (self.generation.temperature, self.generation.top_p) == (1.0, 1.0):
            return
        for option in self._importance_options():
            problem = "generators report log-probabilities at temperature 1 and top_p 1, and sample at others"
            yield FieldProblem(option, problem, "null, or generation at temperature 1 and top_p 1")

    def _importance_options(self) -> Iterator[str]:
        """Fields that make a ratio of the learner's probabilities to the generator's matter."""
        for option in ("clip", "importance_cap"):
            if getattr(self.algorithm, option, None) is not None:
                yield f"algorithm.{option}"

    def _warmup_problems(self) -> Iterator[FieldProblem]:
        if self.optimizer.warmup_steps > self.steps:
            problem = f"{self.optimizer.warmup_steps} is more than the run's {self.steps} steps"
            yield FieldProblem("optimizer.warmup_steps", problem, f"at most {self.steps}")

    def warnings(self) -> list[FieldProblem]:
        """What can be meant as it is written and yet may surprise."""
        found = []
        periods = {self.sync.period, *(change.period for change in self.sync.changes)}
        if self.reference.sync and periods == {"never"}:
            problem = "the generators are never synced, so the reference stays at the seed"
            found.append(FieldProblem("reference.sync", problem, "false, or a sync.period"))
        if not self.algorithm.trains_on_pairs:
            for index, task in enumerate(self.tasks):
                if task.pairs is not None:
                    problem = (
                        f"{self.algorithm.name!r} trains on whole groups; the rule only makes the pairs of an export"
                    )
                    found.append(FieldProblem(f"tasks.{index}.pairs", problem, "null, or an algorithm with pairs"))
        if self.algorithm.wants_fresh_rollouts and (oldest := self._oldest_rollouts()):
            problem = f"steps train on rollouts that are up to {oldest} updates old, and nothing corrects for it"
            allowed = "2.0, say, or a clip range" if hasattr(self.algorithm, "clip") else "2.0, say"
            found.append(FieldProblem("algorithm.importance_cap", problem, allowed))
        if self.rollouts.source is not None:
            for option in self._importance_options():
                problem = "the file does not say how its rollouts were sampled, and ratios to them need temperature 1"
                found.append(FieldProblem(option, problem, "null, or rollouts of temperature 1 and top_p 1"))
        return found

    def _oldest_rollouts(self) -> int:
        """The largest staleness of the run: that of the last step of some window."""
        schedule, oldest, step = self.schedule(), 0, 0
        while step < self.steps:
            window = schedule.window(step)
            oldest, step = max(oldest, schedule.staleness(window.stop - 1)), window.stop
        return oldest

    def _best_problems(self) -> Iterator[FieldProblem]:
        best, sets = self.checkpoints.best, {evaluation.name: evaluation for evaluation in self.evaluation}
        if best is None:
            return
        if best.evaluation not in sets:
            problem = f"there is no evaluation set {best.evaluation!r}"
            yield FieldProblem("checkpoints.best.evaluation", problem, ", ".join(sets) or "null")
        elif best.metric == "pass_at_k" and not sets[best.evaluation].reward.binary:
            problem = f"pass@k needs a reward of right or wrong, and that of {best.evaluation!r} is graded"
            yield FieldProblem("checkpoints.best.metric", problem, "'score' or 'length_normalized'")

    @property
    def best(self) -> Best | None:
        """What the best checkpoint is, the default filled in; None without an evaluation."""
        if self.checkpoints.best is None and self.evaluation:
            return Best(evaluation=self.evaluation[0].name)
        return self.checkpoints.best

    def evaluations_at(self, version: int) -> tuple[Evaluation, ...]:
        """Sets to evaluate at a version: all of them before and after the run, in between by `every`."""
        return tuple(
            evaluation
            for evaluation in self.evaluation
            if version in (0, self.steps) or (evaluation.every is not None and version % evaluation.every == 0)
        )

    def schedule(self) -> Schedule:
        """The sync schedule of this run."""
        changes = tuple(Change(change.step, change.period) for change in self.sync.changes)
        return Schedule(period=self.sync.period, lag=self.sync.lag, steps=self.steps, changes=changes)

    def with_period(self, step: int, period: Period) -> RunSpec:
        """The same run with another sync period from the first window at or after `step`; what was said of earlier
        windows stays. The period that it ends with already changes nothing.

        Raises InvalidSpec for a period that does not fit the run, and Conflict when no window is left to change.
        """
        if problems := list(self._period_problems("sync.period", period)):
            raise InvalidSpec(problems)
        if period == (self.sync.changes[-1] if self.sync.changes else self.sync).period:
            return self
        earlier = tuple(change for change in self.sync.changes if change.step < step)
        sync = self.sync.model_copy(update={"changes": (*earlier, SyncChange(step=step, period=period))})
        changed = self.model_copy(update={"sync": sync})
        if (start := changed.schedule().last_start) >= self.steps:
            raise Conflict(
                f"the next window that is still open would begin at step {start}, and the run ends after {self.steps}"
            )
        return parse_json(changed.model_dump_json())

    def max_tokens_of(self, part: Task | Evaluation) -> int:
        """Token budget of a completion for a task or an evaluation set."""
        return part.max_tokens if part.max_tokens is not None else self.generation.max_tokens


_RUN_SPEC: TypeAdapter[RunSpec] = TypeAdapter(RunSpec)


def parse(data: Mapping[str, Any] | Any) -> RunSpec:
    """Check a decoded YAML or JSON document and return the run spec.

    Raises InvalidSpec with every problem: the field's path, what was wrong, what is allowed.
    """
    if not isinstance(data, Mapping):
        raise InvalidSpec(
            [FieldProblem("$", f"the document is a {type(data).__name__}", "a mapping of run spec fields")]
        )
    try:
        return _RUN_SPEC.validate_python(data)
    except ValidationError as error:
        raise InvalidSpec(problems_of(error.errors(include_url=False), data, RunSpec)) from None


def parse_json(text: str) -> RunSpec:
    """Check a run spec in JSON, as it travels between services."""
    try:
        return _RUN_SPEC.validate_json(text)
    except ValidationError as error:
        raise InvalidSpec(problems_in_json(error, text, RunSpec)) from None
