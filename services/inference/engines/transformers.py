"""The light engine: Hugging Face transformers, one group at a time, the same bytes wherever it runs.

A group is one batch. Its rows draw from one generator per sample, and a row that has ended stays in the batch
until all have: so shapes, and with them every rounding, follow from the request alone. On a CPU in float32 a
request gives the same tokens and the same log-probabilities in any process, at any time.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel
from transformers.utils import logging as transformers_logging

from services.inference.engine import Completion, GroupRequest, require_dtype, require_servable
from services.inference.engines.model_folder import end_of_text_ids, weight_files
from syncline.errors import EngineDead, EngineError, LoadFailed

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TransformersOptions:
    """`num_threads` is part of the result: matrix products of another number of threads may round otherwise."""

    device: str = "cpu"
    num_threads: int = 1


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A model and what the folder says of it; replaced as a whole, so a failed load changes nothing."""

    model: PreTrainedModel
    end_of_text: frozenset[int]
    vocabulary_size: int
    context_length: int

    def require_servable(self, token_ids: Sequence[int]) -> None:
        require_servable(token_ids, vocabulary_size=self.vocabulary_size, context_length=self.context_length)


class TransformersEngine:
    """One worker thread owns the model; requests wait for it in the order in which they came."""

    Options = TransformersOptions
    name = "transformers"
    concurrency = 1

    def __init__(self, options: TransformersOptions | None = None) -> None:
        self._options = options or TransformersOptions()
        self._worker: ThreadPoolExecutor | None = None
        self._loaded: _Loaded | None = None
        self._closing = threading.Event()

    async def load(self, model_dir: Path, *, dtype: str) -> None:
        require_dtype(dtype)
        if self._worker is None:
            self._closing = threading.Event()
            self._worker = ThreadPoolExecutor(
                1, "transformers-engine", initializer=torch.set_num_threads, initargs=(self._options.num_threads,)
            )
        self._loaded = await self._run(lambda _: _read(model_dir, getattr(torch, dtype), self._options.device))

    async def generate(self, request: GroupRequest) -> tuple[Completion, ...]:
        return await self._run(lambda stop: _generate(self._serving(), request, stop))

    async def score(self, token_ids: Sequence[int]) -> tuple[float, ...]:
        return await self._run(lambda _: _score(self._serving(), tuple(token_ids)))

    async def check(self) -> None:
        self._serving()

    async def close(self) -> None:
        worker, self._worker, self._loaded = self._worker, None, None
        self._closing.set()
        if worker is not None:
            worker.shutdown(wait=False, cancel_futures=True)
            await asyncio.to_thread(worker.shutdown)

    def _serving(self) -> _Loaded:
        if self._loaded is None:
            raise EngineDead("the engine holds no model; load one")
        return self._loaded

    async def _run(self, work: Callable[[Callable[[], bool]], T]) -> T:
        """Run `work` on the worker thread; it is given a function that says whether to give up."""
        if self._worker is None:
            raise EngineDead("the engine is closed; load a model")
        cancelled, closing = threading.Event(), self._closing
        future = self._worker.submit(work, lambda: cancelled.is_set() or closing.is_set())
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            cancelled.set()
            if future.cancelled() and closing.is_set() and not _asked_to_stop():
                raise EngineDead("the engine was closed; load a model again") from None
            raise


def _asked_to_stop() -> bool:
    """Whether it is the running task that is being cancelled, and not only what it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _read(model_dir: Path, dtype: torch.dtype, device: str) -> _Loaded:
    """A new model from the folder. It replaces the old one only when all of it has been read and fits."""
    weight_files(model_dir)
    transformers_logging.disable_progress_bar()
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            model_dir, dtype=dtype, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise LoadFailed(f"{model_dir} cannot be loaded: {error}") from error
    if report["missing_keys"]:
        # transformers only warns, and leaves these weights random.
        raise LoadFailed(f"{model_dir} lacks the weights {', '.join(sorted(report['missing_keys']))}")
    return _Loaded(
        model=model.to(device).eval(),
        end_of_text=frozenset(end_of_text_ids(model_dir)),
        vocabulary_size=model.get_input_embeddings().weight.shape[0],
        context_length=getattr(model.config.get_text_config(), "max_position_embeddings", sys.maxsize),
    )


@torch.inference_mode()
def _generate(loaded: _Loaded, request: GroupRequest, stop: Callable[[], bool]) -> tuple[Completion, ...]:
    """Sample every row until it ends. Shapes: N samples, V vocabulary, T prompt tokens."""
    model, device = loaded.model, loaded.model.device
    loaded.require_servable(request.prompt_token_ids)
    num_rows = len(request.seeds)
    max_tokens = min(request.max_tokens, loaded.context_length - len(request.prompt_token_ids))
    generators = [torch.Generator(device).manual_seed(seed) for seed in request.seeds]
    tokens: list[list[int]] = [[] for _ in request.seeds]
    log_probs: list[list[float]] = [[] for _ in request.seeds]
    open_rows = list(range(num_rows))

    cache = DynamicCache(config=model.config)
    prompt_1T = torch.tensor([request.prompt_token_ids], device=device)
    logits_1V = model(input_ids=prompt_1T, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
    cache.batch_repeat_interleave(num_rows)
    logits_NV = logits_1V.float().expand(num_rows, -1)

    while True:
        if stop():
            raise EngineDead("the engine was closed; load a model again")  # or nobody waits for the result any more
        chosen_N = _choose(logits_NV, request, generators, open_rows)
        chosen_log_probs = logits_NV.log_softmax(-1).gather(1, chosen_N[:, None])[:, 0].tolist()
        chosen = chosen_N.tolist()
        for row in open_rows:
            tokens[row].append(chosen[row])
            log_probs[row].append(chosen_log_probs[row])
        open_rows = [
            row for row in open_rows if chosen[row] not in loaded.end_of_text and len(tokens[row]) < max_tokens
        ]
        if not open_rows:
            break
        logits_NV = model(input_ids=chosen_N[:, None], past_key_values=cache, use_cache=True).logits[:, -1].float()

    return tuple(
        Completion(
            token_ids=tuple(tokens[row]),
            log_probs=tuple(log_probs[row]),
            finish_reason="stop" if tokens[row][-1] in loaded.end_of_text else "length",
        )
        for row in range(num_rows)
    )


def _choose(
    logits_NV: torch.Tensor, request: GroupRequest, generators: list[torch.Generator], open_rows: list[int]
) -> torch.Tensor:
    """The next token of every row, (N,) int64; rows that have ended get one too, and draw nothing for it."""
    if request.temperature == 0:
        return logits_NV.argmax(-1)
    probs_NV = (logits_NV / request.temperature).softmax(-1)
    if request.top_p < 1:
        sorted_NV, order_NV = probs_NV.sort(descending=True, stable=True)
        # The smallest set that reaches top_p: a token goes when those before it reach it already.
        sorted_NV[sorted_NV.cumsum(-1) - sorted_NV >= request.top_p] = 0.0
        probs_NV = torch.zeros_like(probs_NV).scatter_(1, order_NV, sorted_NV)
    # argmax(p / e) with e ~ Exp(1) draws from p, as torch.multinomial does inside, but with a generator per row.
    noise_NV = torch.ones_like(probs_NV)
    for row in open_rows:
        noise_NV[row].exponential_(generator=generators[row])
    return (probs_NV / noise_NV).argmax(-1)


@torch.inference_mode()
def _score(loaded: _Loaded, token_ids: tuple[int, ...]) -> tuple[float, ...]:
    if len(token_ids) < 2:
        raise EngineError("a score needs at least two tokens")
    loaded.require_servable(token_ids)
    ids_1T = torch.tensor([token_ids], device=loaded.model.device)
    logits_TV = loaded.model(input_ids=ids_1T, use_cache=False).logits[0, :-1].float()
    return tuple(logits_TV.log_softmax(-1).gather(1, ids_1T[0, 1:, None])[:, 0].tolist())
