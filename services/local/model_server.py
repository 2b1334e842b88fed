"""vLLM's own HTTP server for a model beside the policy: a reward model on the machine where the stack runs.

It listens on loopback only. Nothing of it is tuned: it has to be right and to start soon, beside a fleet that works.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

START_DEADLINE_S = 300.0
"""It imports all of vLLM, on a machine that starts the rest of the stack at the same time."""

ENVIRONMENT: Mapping[str, str] = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine in the server's own process starts in half the time
    "TORCH_COMPILE_DISABLE": "1",  # else a small function still wants a C++ compiler, at the first request
}
REWARD_MODEL = ("--runner", "pooling", "--convert", "classify")
"""Serve the head of a sequence-classification model."""


def command(folder: Path, *, port: int, name: str, extra: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Serve the model in `folder` as `name`. The module, as the console command of vLLM's CPU build does not start."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return (
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(folder), "--served-model-name", name, "--host", "127.0.0.1", "--port", str(port)),
        *("--dtype", config.get("dtype") or config.get("torch_dtype") or "auto"),  # vLLM's choice is never float32
        *("--enforce-eager", "--kv-cache-memory-bytes", str(128 << 20), "--disable-uvicorn-access-log"),
        *extra,
    )
