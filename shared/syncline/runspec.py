"""The run spec: everything that describes a run, checked before anything starts.

Unknown keys are refused. Each algorithm is a model of its own, so an option that an
algorithm does not have is refused like any unknown key. Defaults are the paper's settings
(arXiv 2506.21495, Table 4 for verifiable tasks) unless a docstring says otherwise.

Importing this module loads pydantic and nothing heavier.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from syncline.algo.schedule import Change, Period, Schedule
from syncline.algorithmspec import AlgorithmSpec
from syncline.errors import Conflict, FieldProblem, InvalidSpec
from syncline.rewardspec import JudgeSpec, MathSpec, RewardSpec
from syncline.spec_part import Name, Part
from syncline.spec_problems import problems_of

# Far beyond any sensible run, and near enough that a slip of the finger does not fill the coordinator's memory.
MOST_STEPS = 1_000_000
MOST_PROMPTS_PER_STEP = 65_536
MOST_SAMPLES_PER_STEP = 262_144
MOST_TOKENS = 1_048_576
Steps = Annotated[int, Field(ge=1, le=MOST_STEPS)]
MaxTokens = Annotated[int, Field(ge=1, le=MOST_TOKENS)]


class Model(Part):
    """The seed model."""

    path: str = Field(min_length=1)
    """Folder in Hugging Face layout, here, at s3://bucket/prefix or hf://org/name (and @revision); or another run's
    checkpoint: run://RUN/final, run://RUN/best, run://RUN/v50."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type that learner and generators compute in."""
    activation_checkpointing: bool = False
    """Let the learner compute activations again in the backward pass: less memory, the same gradients, about a third
    more time."""


class RandomPair(Part):
    """A random correct response against a random incorrect one (paper section 3.2)."""

    type: Literal["random"] = "random"


class BestVsWorst(Part):
    """Highest reward against lowest (paper section 3.1)."""

    type: Literal["best_vs_worst"] = "best_vs_worst"
    min_margin: float = Field(default=0.0, ge=0.0)
    """No pair when best minus worst is not above this."""


PairRule = Annotated[RandomPair | BestVsWorst, Field(discriminator="type")]


class Reference(Part):
    """The reference policy."""

    sync: bool = False
    """True: it follows the generators at each sync. False: it stays at the seed."""


SyncPeriod = Annotated[int, Field(ge=1)] | Literal["never"]


class SyncChange(Part):
    """Another sync period from the first window that starts at or after `step`."""

    step: int = Field(ge=0)
    period: SyncPeriod


class Sync(Part):
    """The sync schedule."""

    period: SyncPeriod = 10
    """Updates between two syncs of the generators: 1 is online, never is offline."""
    lag: Literal[0, 1] = 0
    """Whole windows the generators may be behind; 1 overlaps generation and training fully."""
    changes: tuple[SyncChange, ...] = ()
    """Later periods, in order of their steps; PATCH on a run appends here."""


class Generation(Part):
    """How rollouts are sampled."""

    samples_per_prompt: int = Field(default=8, ge=2, le=1024)
    temperature: float = Field(default=1.0, ge=0.0, le=10.0)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    max_tokens: MaxTokens = 1024


class Task(Part):
    """One source of prompts with its reward."""

    name: Name
    data: str | None = Field(default=None, min_length=1)
    """JSONL or Parquet, or its s3:// URL, with rows {"prompt": str | messages, "answer": str?}. Not read where rollouts
    come from a file, and only there it may be left out."""
    reward: RewardSpec
    pairs: PairRule | None = None
    """null: random for a reward of right or wrong, best_vs_worst for graded ones (the paper's rules)."""
    weight: float = Field(default=1.0, gt=0.0)
    """Share of each batch, relative to the other tasks."""
    max_tokens: MaxTokens | None = None
    """Overrides generation.max_tokens."""

    @property
    def pair_rule(self) -> RandomPair | BestVsWorst:
        """The rule that holds, the default filled in."""
        if self.pairs is not None:
            return self.pairs
        return BestVsWorst() if self.reward.graded else RandomPair()


class Optimizer(Part):
    """AdamW. The paper: lr 1e-6, eps 1e-4 for maths (the cure for sudden divergence), clip 0.1."""

    lr: float = Field(default=1e-6, gt=0.0)
    eps: float = Field(default=1e-4, gt=0.0)
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.95)
    weight_decay: float = Field(default=0.1, ge=0.0)
    grad_clip: float = Field(default=0.1, gt=0.0)
    warmup_steps: int = Field(default=0, ge=0, le=MOST_STEPS)
    schedule: Literal["constant", "cosine"] = "constant"


class Evaluation(Part):
    """A held-out set, evaluated before the first step, every `every` steps, and after the last."""

    name: Name
    data: str = Field(min_length=1)
    reward: RewardSpec = MathSpec(type="math")
    every: Steps | None = None
    """Steps between evaluations; null evaluates only before and after."""
    samples: int = Field(default=1, ge=1, le=1024)
    temperature: float = Field(default=0.6, ge=0.0, le=10.0)
    top_p: float = Field(default=0.9, gt=0.0, le=1.0)
    max_tokens: MaxTokens | None = None
    """Overrides generation.max_tokens."""


class Best(Part):
    """Which checkpoint is the best one."""

    evaluation: Name
    """One of the run's evaluation sets."""
    metric: Literal["score", "pass_at_k", "length_normalized"] = "score"
    """score: the mean score (accuracy, or the win rate of a versus_seed judge). pass_at_k: k = samples.
    length_normalized: the mean score as if answers were as long as the seed's (algo/evaluation.py)."""


class Rollouts(Part):
    """Where the training rollouts come from, and whether they are kept."""

    model_config = ConfigDict(populate_by_name=True)

    source: str | None = Field(default=None, alias="from", min_length=1)
    """A file of rollouts (`syncline export rollouts`; .jsonl or .jsonl.gz), or its s3:// URL, to train on offline; null
    generates live.

    Rows go to the tasks of their names, which say how pairs are made and how the tasks are mixed; the rewards are those
    of the file. Each task takes its rows as they lie, then again in shuffled epochs. So the spec of an exported run
    with sync.period never trains on the same groups in the same steps. The tasks' data and rewards, generation and the
    generators are for evaluations only."""
    record: bool = True
    """Keep every trained group with the run, so that `syncline export rollouts` can give them out."""


class Checkpoints(Part):
    """Saved training states and the published weights that are kept."""

    every: Steps = 50
    """Steps between saved training states."""
    keep: int = Field(default=3, ge=2, le=MOST_STEPS)
    """Newest published checkpoints to keep, beside those in use. At least 2: one may be in the writing."""
    best: Best | None = None
    """What `best` means; its checkpoint is kept beside the newest. null: the score of the first evaluation set."""


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
                yield FieldProblem(f"tasks.{index}.pairs.type", problem, "'best_vs_worst'")
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
        for problem in self.algorithm.problems():
            yield replace(problem, path=f"algorithm.{problem.path}")

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
        windows stays.

        Raises InvalidSpec for a period that does not fit the run, and Conflict when no window is left to change.
        """
        if problems := list(self._period_problems("sync.period", period)):
            raise InvalidSpec(problems)
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
        raise InvalidSpec(problems_of(error.errors(include_url=False), RunSpec)) from None


def parse_json(text: str) -> RunSpec:
    """Check a run spec in JSON, as it travels between services."""
    try:
        return _RUN_SPEC.validate_json(text)
    except ValidationError as error:
        raise InvalidSpec(problems_of(error.errors(include_url=False), RunSpec)) from None
