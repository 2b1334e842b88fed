"""The vLLM engine: continuous batching on GPUs and CPUs, weights replaced in place.

Two facts of vLLM (seen at 0.32.0) shape this file:

- A reload of a model with tied embeddings answers "ok" and leaves a CPU engine with wrong logits. So the engine is
  built untied, and every load brings an explicit output matrix (`tied_embeddings="split"`).
- A reload is not atomic. So there is one way in for weights, the first ones included: read everything, then apply.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeVar

from services.inference.engine import Completion, GroupRequest, require_dtype, require_servable
from services.inference.engines.model_folder import architecture, copied_config, end_of_text_ids, weight_files
from services.inference.engines.vllm_start import VllmOptions, start_vllm
from syncline.errors import EngineDead, EngineError, LoadFailed

if TYPE_CHECKING:
    from vllm import RequestOutput, SamplingParams
    from vllm.v1.engine.async_llm import AsyncLLM

T = TypeVar("T")


class VllmEngine:
    """An `AsyncLLM`; its engine core is a child process, and has one child per GPU under tensor parallelism."""

    Options = VllmOptions
    name = "vllm"

    def __init__(self, options: VllmOptions | None = None) -> None:
        self._options = options or VllmOptions()
        self._turn = asyncio.Lock()
        self._llm: AsyncLLM | None = None
        self._built_for: tuple[str, str] | None = None
        """Architecture and dtype that it takes weights of. None: build anew at the next load."""
        self._ready = False
        self._end_of_text: list[int] = []
        self._config: TemporaryDirectory[str] | None = None
        """What the engine was built from."""
        self._request_numbers = itertools.count()
        self._in_flight: set[str] = set()

    @property
    def concurrency(self) -> int:
        return self._options.groups_in_flight

    async def load(self, model_dir: Path, *, dtype: str) -> None:
        require_dtype(dtype)
        async with self._turn:
            # Split, tied and untied models are one architecture.
            aside = ("tie_word_embeddings",) if self._options.tied_embeddings == "split" else ()
            wanted = await asyncio.to_thread(architecture, model_dir, aside), dtype
            end_of_text = end_of_text_ids(model_dir)
            weight_files(model_dir)
            llm = self._llm
            if llm is None or llm.errored or self._built_for != wanted:
                was_ready = self._ready
                await self._stop()
                llm = self._llm = await self._build(model_dir, dtype)
                self._built_for = wanted  # whatever becomes of these weights, which may be deleted by now
                try:
                    await self._replace_weights(llm, model_dir)
                except LoadFailed as error:
                    if was_ready:
                        raise EngineDead(f"the old engine is gone, and the new one got no weights: {error}") from error
                    raise
            else:
                await self._replace_weights(llm, model_dir)
            self._built_for = wanted
            self._end_of_text = list(end_of_text)
            self._ready = True

    async def generate(self, request: GroupRequest) -> tuple[Completion, ...]:
        llm = self._serving()
        try:
            async with asyncio.TaskGroup() as group:
                samples = [
                    group.create_task(self._complete(llm, request.prompt_token_ids, self._sampling(request, seed)))
                    for seed in request.seeds
                ]
        except BaseExceptionGroup as errors:
            raise _first(errors) from None
        return tuple(_completion(sample.result()) for sample in samples)

    async def score(self, token_ids: Sequence[int]) -> tuple[float, ...]:
        from vllm import SamplingParams

        llm = self._serving()
        if len(token_ids) < 2:
            raise EngineError("a score needs at least two tokens")
        params = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False)
        output = await self._complete(llm, token_ids, params)
        rows = output.prompt_logprobs or []
        return tuple(row[token].logprob for token, row in zip(token_ids[1:], rows[1:], strict=True) if row)

    async def check(self) -> None:
        llm = self._serving()
        await self._answer(llm, llm.is_paused(), self._options.answer_timeout_s)  # any question to the engine core

    async def close(self) -> None:
        async with self._turn:
            await self._stop()

    def _serving(self) -> AsyncLLM:
        if self._llm is None or not self._ready:
            raise EngineDead("the engine holds no weights; load a model")
        if self._llm.errored:
            raise EngineDead("the engine core died; close the engine and load again")
        return self._llm

    def _sampling(self, request: GroupRequest, seed: int) -> SamplingParams:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            temperature=request.temperature,
            top_p=request.top_p,
            max_tokens=request.max_tokens,
            seed=seed,
            logprobs=0,  # the sampled token's own, and no others
            # The folder says what ends a text (`end_of_text_ids`), the same for every engine; vLLM has no say in it.
            ignore_eos=True,
            stop_token_ids=self._end_of_text,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            skip_clone=True,  # used once; the deep copy is half of what a short request costs this process
        )

    async def _complete(self, llm: AsyncLLM, token_ids: Sequence[int], params: SamplingParams) -> RequestOutput:
        """One request from start to end. Cancelling it aborts it in the engine core."""
        from vllm.exceptions import VLLMClientError
        from vllm.inputs import tokens_input
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        require_servable(
            token_ids,
            vocabulary_size=llm.model_config.get_vocab_size(),
            context_length=llm.model_config.max_model_len,
        )
        request_id = f"sample-{next(self._request_numbers)}"
        self._in_flight.add(request_id)
        last = None
        try:
            async for output in llm.generate(tokens_input(list(token_ids)), params, request_id):
                last = output
        except EngineDeadError as error:
            raise EngineDead("the engine core died; close the engine and load again") from error
        except (VLLMClientError, EngineGenerateError) as error:
            raise EngineError(f"vLLM refuses the request: {error.__cause__ or error}") from error
        finally:
            self._in_flight.discard(request_id)
        if last is None or last.outputs[0].finish_reason == "abort":
            raise EngineDead("the engine was closed; load a model again")
        return last

    async def _build(self, model_dir: Path, dtype: str) -> AsyncLLM:
        """Start vLLM with random weights. It takes seconds to minutes, in a thread: the event loop goes on.

        From a copy of what is no weights: where steps are short, the folder may be deleted before vLLM has started.
        """
        self._config = config = await asyncio.to_thread(copied_config, model_dir)
        building = asyncio.ensure_future(asyncio.to_thread(start_vllm, self._options, Path(config.name), dtype))
        try:
            return await asyncio.shield(building)
        except asyncio.CancelledError:
            # A thread cannot be cancelled. What it starts must not outlive the wish for it.
            building.add_done_callback(lambda done: done.exception() or done.result().shutdown())
            raise
        except (RuntimeError, ValueError, OSError, ImportError) as error:
            raise EngineDead(f"vLLM did not start for {model_dir}: {error}") from error

    async def _replace_weights(self, llm: AsyncLLM, model_dir: Path) -> None:
        untie = self._options.tied_embeddings == "split"
        stage = llm.collective_rpc("stage_checkpoint", args=(str(model_dir), untie))
        for problem in await self._answer(llm, stage, self._options.load_timeout_s):
            if problem is not None:
                raise LoadFailed(problem)
        self._ready, self._built_for = False, None
        try:
            await self._answer(llm, llm.collective_rpc("apply_checkpoint"), self._options.load_timeout_s)
        except EngineError as error:
            raise EngineDead(f"the weights of {model_dir} went in half-way: {error}") from error
        if not await self._answer(llm, llm.reset_prefix_cache(), self._options.answer_timeout_s):
            raise EngineDead("the prefix cache still holds keys and values of the old weights")

    async def _answer(self, llm: AsyncLLM, question: Awaitable[T], timeout_s: float) -> T:
        """Wait for the engine core, but not beyond its death, nor beyond `timeout_s`.

        vLLM leaves a question unanswered forever when the engine core dies while it is asked. A question that fails
        inside the engine core is an `EngineError`; the engine core itself goes on.
        """
        asking = asyncio.ensure_future(question)
        try:
            async with asyncio.timeout(timeout_s):
                while not asking.done():
                    if llm.errored:
                        raise EngineDead("the engine core died; close the engine and load again")
                    await asyncio.wait({asking}, timeout=0.5)
        except TimeoutError:
            raise EngineDead(f"the vLLM engine core did not answer within {timeout_s:g} s") from None
        finally:
            asking.cancel()
        if error := asking.exception():
            raise EngineError(str(error)) from error
        return asking.result()

    async def _stop(self) -> None:
        llm, self._llm = self._llm, None
        config, self._config = self._config, None
        self._ready, self._built_for = False, None
        if config is not None:
            config.cleanup()
        if llm is None:
            return
        with suppress(EngineError):  # an engine core that does not answer is stopped all the same
            await self._answer(llm, llm.abort(list(self._in_flight)), self._options.answer_timeout_s)
        if llm.output_handler is not None:
            llm.output_handler.cancel()  # else it reports the end that we are about to bring as a failure
        # SIGTERM, five seconds of grace, SIGKILL; returns when the children are gone.
        await asyncio.to_thread(llm.shutdown)
        # Its destructor calls shutdown once more, and fails when that comes at the interpreter's end.
        llm.shutdown = lambda timeout=None: None


def _completion(output: RequestOutput) -> Completion:
    sample = output.outputs[0]
    if sample.finish_reason not in ("stop", "length"):
        raise EngineError(f"vLLM ended a sample with {sample.finish_reason!r}")
    tokens = tuple(sample.token_ids)
    rows = sample.logprobs or []
    return Completion(
        token_ids=tokens,
        log_probs=tuple(row[token].logprob for token, row in zip(tokens, rows, strict=True) if row),
        finish_reason="stop" if sample.finish_reason == "stop" else "length",
    )


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """One error to tell: the samples of a group fail together, and mostly for the same reason."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
