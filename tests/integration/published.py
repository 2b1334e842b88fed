"""Publishes a model folder as the learner does: manifest, digest, and a probe computed by transformers itself."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from syncline import published
from syncline.cache import Cache
from syncline.storage import FolderStorage
from syncline.v1.checkpoint_pb2 import CheckpointHandle

PROBE_IDS = [5, 9, 17, 33, 40, 8, 21, 60, 71, 12]


def log_probs(model_dir: Path, token_ids: list[int]) -> list[float]:
    """log p(token i | before) for i >= 1 by a plain forward pass in float32."""
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.tensor([token_ids])).logits[0].log_softmax(-1)
    return [float(logits[index - 1, token]) for index, token in enumerate(token_ids) if index]


def publish(
    run_dir: Path, model_dir: Path, *, version: int, run_id: str = "run-1", probe: list[float] | None = None
) -> CheckpointHandle:
    """The handle of `model_dir`'s weights as `version`; a wrong `probe` can be planted."""

    def fill(folder: Path) -> Mapping[str, Any]:
        for file in model_dir.iterdir():
            shutil.copy(file, folder)
        return {
            "run_id": run_id,
            "version": version,
            "dtype": "float32",
            "probe": {
                "token_ids": PROBE_IDS,
                "log_probs": probe or log_probs(model_dir, PROBE_IDS),
                "tolerance": 1e-3,
            },
        }

    storage = FolderStorage(run_dir)
    storage.write(published.name_of(version), fill)
    return published.handle_of(storage, version)


def staged(handle: CheckpointHandle) -> Path:
    """The verified folder of a handle on disk, where nothing has to be copied."""
    return published.stage(handle, cache=Cache(Path("never-made")))
