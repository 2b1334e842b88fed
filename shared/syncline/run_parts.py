"""The parts of a run spec that every run has: model, sync schedule, tasks, generation, optimizer, evaluation.

Defaults are the paper's settings (arXiv 2506.21495, Table 4 for verifiable tasks) unless a docstring says otherwise.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from syncline.rewardspec import MathSpec, RewardSpec
from syncline.spec_part import Name, Part, like

# Far beyond any sensible run, and near enough that a slip of the finger does not fill the coordinator's memory.
MOST_STEPS = 1_000_000
MOST_TOKENS = 1_048_576
Steps = Annotated[int, Field(ge=1, le=MOST_STEPS)]
MaxTokens = Annotated[int, Field(ge=1, le=MOST_TOKENS)]


class Model(Part):
    """The seed model."""

    path: Annotated[
        str,
        like(
            r"(?s)^(?!\w+://).|^(?:run|s3|hf)://[^/\s]",
            "a folder, run://RUN/best, s3://bucket/prefix or hf://org/name",
        ),
    ]
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


class AllPairs(Part):
    """Every better response against every worse one; dpo, too, takes them all, and their mean counts as one pair."""

    type: Literal["all"] = "all"
    min_margin: float = Field(default=0.0, ge=0.0)
    """No pair of two whose rewards are not more than this apart."""


PairRule = Annotated[RandomPair | BestVsWorst | AllPairs, Field(discriminator="type")]


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
    temperature: float = Field(default=1.0, gt=0.0, le=10.0)
    """Above 0: at 0 all samples of a prompt are the same."""
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
    """null: random for a reward of right or wrong, best_vs_worst for graded ones (the paper's rules). The rule says
    what counts as better; dpo takes one such pair of a prompt (but with `all` every one), group_dpo and group_dpo_grpo
    take all of them."""
    weight: float = Field(default=1.0, gt=0.0)
    """Share of each batch, relative to the other tasks."""
    max_tokens: MaxTokens | None = None
    """Overrides generation.max_tokens."""

    @property
    def pair_rule(self) -> RandomPair | BestVsWorst | AllPairs:
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
    grad_norm_by_task: bool = True
    """Report the gradient norm of each task, too. In a run of several tasks that takes a second gradient, 4 bytes a
    parameter over all ranks; without it their prompts also share micro-batches."""


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
