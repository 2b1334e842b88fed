"""What the inference service asks of an engine; every engine in `services.inference.engines` meets it.

The order of calls is `load`, then any number of `generate`, `score`, `check` at the same time, then `load`
again with nothing in flight, at last `close`:

    engine = create_engine("vllm")
    await engine.load(Path("ckpt/0"), dtype="float32")
    completions = await engine.generate(GroupRequest((1, 5, 9), seeds=(7, 8), temperature=1.0, max_tokens=64))
    await engine.load(Path("ckpt/10"), dtype="float32")
    await engine.close()
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from syncline.errors import EngineError, LoadFailed
from syncline.wire_names import FinishName

MAX_SEED = 2**63 - 1
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True)
class GroupRequest:
    """One prompt and one completion per seed. A bad request raises `EngineError` here, before any engine sees it.

    Sample i depends on the weights, the prompt and `seeds[i]` alone: not on the other samples, nor on what
    else the engine is doing. `temperature` 0 means greedy. A completion has at most `max_tokens` tokens, and
    fewer where the model's context ends.
    """

    prompt_token_ids: tuple[int, ...]
    seeds: tuple[int, ...]
    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not self.prompt_token_ids:
            raise EngineError("the prompt is empty; it needs at least one token")
        if not self.seeds:
            raise EngineError("a group needs at least one seed")
        if not all(0 <= seed <= MAX_SEED for seed in self.seeds):
            raise EngineError(f"a seed lies outside 0..{MAX_SEED}")
        if self.max_tokens < 1:
            raise EngineError(f"max_tokens is {self.max_tokens}; it must be at least 1")
        if self.temperature < 0:
            raise EngineError(f"temperature is {self.temperature}; it must be at least 0")
        if not 0 < self.top_p <= 1:
            raise EngineError(f"top_p is {self.top_p}; it must be in (0, 1]")


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled answer.

    `token_ids` ends with the end-of-text token when `finish_reason` is "stop". `log_probs` has one float32 per
    token: its log-probability (nats) under the model itself, at temperature 1 and without top-p, whatever the
    request sampled with. This is what an importance ratio needs.
    """

    token_ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    finish_reason: FinishName


class Engine(Protocol):
    """Holds one set of weights and samples from it."""

    @property
    def name(self) -> str:
        """The name under which `create_engine` makes it."""

    @property
    def concurrency(self) -> int:
        """How many groups are worth having in flight; more only wait inside the engine."""

    async def load(self, model_dir: Path, *, dtype: str) -> None:
        """Serve the weights of a Hugging Face folder. `dtype` is one of `DTYPES`.

        The first call builds the engine; later calls replace the weights in place, and build anew only where the
        architecture or the dtype changed. The caller has verified the folder and has nothing in flight.

        Raises `LoadFailed` when the folder cannot be used: what was served before is still served. Raises
        `EngineDead` when the engine broke on the way: `close` it, then `load` again.
        """

    async def generate(self, request: GroupRequest) -> tuple[Completion, ...]:
        """Sample one completion per seed, in the order of the seeds. Cancelling it stops the work.

        Raises `EngineError` when this request cannot be served (a prompt longer than the context), `EngineDead`
        when none can.
        """

    async def score(self, token_ids: Sequence[int]) -> tuple[float, ...]:
        """log p(token_i | tokens before it), in nats, for every i >= 1: one value fewer than tokens.

        Raises as `generate`.
        """

    async def check(self) -> None:
        """Return when the engine can serve; raise `EngineDead` when it cannot."""

    async def close(self) -> None:
        """Stop everything, child processes included. What is in flight ends with `EngineDead`. Twice is fine."""


def require_dtype(dtype: str) -> None:
    """Raise `LoadFailed` for a dtype that no engine knows, before one is taken down for it."""
    if dtype not in DTYPES:
        raise LoadFailed(f"dtype {dtype!r} is unknown; there are: {', '.join(DTYPES)}")


def require_servable(token_ids: Sequence[int], *, vocabulary_size: int, context_length: int) -> None:
    """Raise `EngineError` for a prompt that the model cannot take. Every engine asks this first.

    It is not left to the model: one id beyond the vocabulary kills a vLLM engine, and with it everything in flight.
    """
    if len(token_ids) >= context_length:
        raise EngineError(f"{len(token_ids)} tokens leave no room in a context of {context_length}")
    if not all(0 <= token < vocabulary_size for token in token_ids):
        raise EngineError(f"a token id lies outside the vocabulary of {vocabulary_size}")
