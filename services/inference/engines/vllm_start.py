"""How vLLM is started: its options, and its process.

The engine core is a child process made by "spawn": a program that uses this engine needs the usual
`if __name__ == "__main__"` guard. "fork", vLLM's own choice on a GPU, would hand it the service's listening sockets.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM

OWNER_PID = "SYNCLINE_ENGINE_OWNER_PID"
"""Environment variable for vLLM's processes: the process whose death ends them."""

_WORKER = "services.inference.engines.vllm_worker.CheckpointWorker"


@dataclass(frozen=True, slots=True)
class VllmOptions:
    """Every knob. None leaves the choice to vLLM, where the field says nothing else."""

    max_model_len: int | None = None
    max_num_seqs: int = 256
    max_num_batched_tokens: int | None = None
    tensor_parallel_size: int = 1
    gpu_memory_utilization: float = 0.9
    cpu_kv_cache_bytes: int = 512 << 20
    enforce_eager: bool | None = None
    """None: eager on a CPU, CUDA graphs on a GPU."""
    enable_prefix_caching: bool = True
    """The samples of a group share their prompt's cache. Every load empties it."""
    tied_embeddings: Literal["split", "native"] = "split"
    """ "native" leaves tying to vLLM: one matrix less in memory, and wrong logits after a reload on a CPU."""
    groups_in_flight: int = 32
    """A generator claims this many prompt tasks: more leaves less for the other generators."""
    load_timeout_s: float = 600.0
    answer_timeout_s: float = 60.0
    """For what should take milliseconds: a health check, emptying a cache, an abort."""


def start_vllm(options: VllmOptions, model_dir: Path, dtype: str) -> AsyncLLM:
    """An engine of the folder's architecture with random weights. Blocks until it answers."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    from vllm import AsyncEngineArgs
    from vllm.platforms import current_platform
    from vllm.v1.engine.async_llm import AsyncLLM

    on_cpu = current_platform.is_cpu()
    arguments: dict[str, Any] = {
        "model": str(model_dir.absolute()),
        "dtype": dtype,
        "load_format": "dummy",
        "skip_tokenizer_init": True,
        "max_model_len": options.max_model_len,
        "max_num_seqs": options.max_num_seqs,
        "max_num_batched_tokens": options.max_num_batched_tokens,
        "tensor_parallel_size": options.tensor_parallel_size,
        "gpu_memory_utilization": options.gpu_memory_utilization,
        "enable_prefix_caching": options.enable_prefix_caching,
        "enforce_eager": on_cpu if options.enforce_eager is None else options.enforce_eager,
        "worker_extension_cls": _WORKER,
        "disable_log_stats": True,
    }
    environment = {"VLLM_WORKER_MULTIPROC_METHOD": "spawn", OWNER_PID: str(os.getpid())}
    if options.tied_embeddings == "split":
        arguments["hf_overrides"] = {"tie_word_embeddings": False}
    if on_cpu:
        # vLLM cannot rewind a CPU's generator: a request with a seed kills the engine core when its prompt is
        # computed in chunks (`set_offset`, in `_bookkeeping_sync`).
        arguments |= {"kv_cache_memory_bytes": options.cpu_kv_cache_bytes, "enable_chunked_prefill": False}
        if options.tensor_parallel_size == 1:
            # The worker in the engine core's own process: one process and a quarter of the start-up less. vLLM
            # grants that on a CPU only under this variable, which stands for the same thing in its `LLM` class.
            arguments["distributed_executor_backend"] = "uni"
            environment["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        if arguments["enforce_eager"]:
            # Else a small function of the sampler still wants a C++ compiler, at the first request.
            environment["TORCH_COMPILE_DISABLE"] = "1"
    with _environment(environment):
        return AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Set variables for the children that start inside the block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
