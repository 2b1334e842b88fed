"""What the API answers with, described. Answers are made elsewhere, as plain rows; tests hold them to these models."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from syncline.runspec import RunSpec
from syncline.state import RunState

Period = int | Literal["never"]


class Answer(BaseModel):
    """Base of every part of an answer."""

    model_config = ConfigDict(extra="forbid")


class Problem(Answer):
    """One thing wrong with one field of a request."""

    path: str
    problem: str
    allowed: str


class ProblemDocument(Answer):
    """An error (RFC 9457), as application/problem+json."""

    type: str
    title: str
    status: int
    code: str
    """Stable; see the error tree in syncline.errors."""
    detail: str
    errors: list[Problem] = []


class Progress(Answer):
    step: int
    """Updates made."""
    steps: int
    eta_seconds: float | None


class TaskNumbers(Answer):
    """A task's part of a step."""

    task: str
    staleness: int
    groups: int
    dropped: dict[str, int]
    samples: int
    rewarded: int
    """Samples with a reward."""
    reward_mean: float | None
    verdicts: dict[str, int]
    causes: dict[str, int]
    """Why verdicts are not `scored`."""
    pairs: int
    tokens: int
    length_mean: float | None
    metrics: dict[str, float | None]


class RolloutsOf(Answer):
    """Where the training rollouts come from; `from` is null where generators make them."""

    model_config = ConfigDict(extra="allow")

    sha256: str | None = None
    groups: dict[str, int] | None = None


class BestVersion(Answer):
    version: int
    evaluation: str
    metric: str
    value: float
    folder: str


class RunResource(Answer):
    """A run."""

    id: str
    name: str
    state: RunState
    reason: str
    created_at: str
    started_at: str | None
    finished_at: str | None
    progress: Progress
    version: int
    """What the generators were last told to serve for training."""
    staleness: int | None
    tasks: list[TaskNumbers]
    """Of the newest step."""
    mismatch_kl: dict[int, float | None]
    """By version, over the newest steps: learner against generator on the generator's own samples."""
    rollouts: RolloutsOf
    skipped_prompts: dict[str, int]
    attempts: int
    best: BestVersion | None
    warnings: list[Problem]
    spec: RunSpec
    folder: str
    model_folder: str | None
    summary_path: str
    links: dict[str, str]


class Page(Answer):
    """Base of every page of rows; `next_page_token` is empty at the end."""

    next_page_token: str


class RunPage(Page):
    runs: list[RunResource]


class Step(Answer):
    """One update: what trained, on whose rollouts, with which numbers."""

    step: int
    version: int
    """Version that generated its rollouts."""
    staleness: int
    sync_period: Period
    reward_mean: float | None
    pairs: int
    groups: int
    dropped: dict[str, int]
    refused: dict[str, int]
    trained: list[int]
    tokens: int
    length_mean: float | None
    wait_seconds: float
    update_seconds: float
    metrics: dict[str, float | None]
    tasks: list[TaskNumbers]
    finished_at: float


class StepPage(Page):
    steps: list[Step]


class Sample(Answer):
    """A completion to read."""

    step: int
    version: int
    prompt_index: int
    task: str
    prompt: str
    completion: str
    answer: str
    reward: float | None
    verdict: str
    role: str
    """chosen, rejected or empty."""
    generator: str


class SamplePage(Page):
    samples: list[Sample]


class Checkpoint(Answer):
    version: int
    best: bool
    kept: bool
    """Whether it stays on storage when newer ones come."""
    folder: str
    manifest_digest: str
    bytes: int


class CheckpointPage(Page):
    checkpoints: list[Checkpoint]


class Interval(Answer):
    """A mean with its 95 % interval, where it has one."""

    mean: float
    low: float | None
    high: float | None


class EvaluationRow(Answer):
    """What one set said of one version."""

    name: str
    version: int
    measure: Literal["accuracy", "win_rate", "score"]
    temperature: float
    """Of the sampling; 0 is greedy."""
    score: Interval | None
    pass_at: dict[str, float]
    win_rate: Interval | None
    win_rate_length_controlled: Interval | None
    length_mean: float | None
    length_normalized: float | None
    prompts: int
    samples: int
    verdicts: dict[str, int]
    dropped: dict[str, int]
    seconds: float
    finished_at: float


class EvaluationPage(Page):
    evaluations: list[EvaluationRow]


class SampleAnswer(Answer):
    completion: str
    tokens: int
    finish: str
    score: float | None
    raw_score: float
    verdict: str
    cause: str


class PromptAnswers(Answer):
    prompt_index: int
    prompt: str
    answer: str
    samples: list[SampleAnswer]


class EvaluationAnswers(Page):
    evaluation: EvaluationRow
    answers: list[PromptAnswers]


class SetsBeforeAndAfter(Answer):
    """By the name of the set."""

    before: dict[str, EvaluationRow]
    after: dict[str, EvaluationRow]


class StalenessRange(Answer):
    min: int | None
    mean: float | None
    max: int | None


class GroupCounts(Answer):
    """What became of every group."""

    trained: int
    dropped: dict[str, int]
    refused: dict[str, int]


class Summary(Answer):
    """What came of a run that is over."""

    id: str
    name: str
    state: RunState
    reason: str
    steps: int
    updates: int | None
    """Steps that changed the weights."""
    evaluation: SetsBeforeAndAfter
    best: BestVersion | None
    wall_seconds: float
    phase_seconds: dict[str, float]
    rollouts: RolloutsOf
    versions: list[int]
    syncs: int
    staleness: StalenessRange
    groups: GroupCounts
    padding_waste: float | None
    mismatch_kl: dict[int, float | None]
    skipped_prompts: dict[str, int]
    attempts: int
    tokens: int
    model_folder: str | None
    warnings: list[Problem]


class Event(Answer):
    id: int
    type: str
    at: float
    data: dict[str, Any]


class EventPage(Page):
    events: list[Event]
