"""Causal language models from Hugging Face folders: whole, or empty for weights that come from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.initialization import no_init_weights

from syncline.errors import FieldProblem, InvalidSpec

_BROKEN = (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError)
"""What transformers raises for a folder that holds no model."""


def load_model(folder: Path) -> Any:
    """The model of a Hugging Face folder in float32 on the CPU. Reads safetensors only and runs no code of the folder.

    It stays in eval mode: dropout would make the policy differ from the one that generated.
    Raises InvalidSpec when the folder holds no complete model.
    """
    if not (folder / "config.json").is_file():
        raise no_model(folder, "there is no config.json in it")
    if not list(folder.glob("*.safetensors")):
        raise no_model(folder, "there are no *.safetensors in it")
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except _BROKEN as error:
        raise no_model(folder, f"{type(error).__name__}: {error}") from error
    # A weight that the files lack would train from random numbers, and nobody would notice.
    if missing := sorted({*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])}):
        raise no_model(folder, f"its files lack {len(missing)} weights or have them in another shape: {missing[:3]}")
    return model.eval()


def skeleton(folder: Path) -> Any:
    """A model like that of `load_model`, with buffers computed and parameters that nobody has written to yet.

    The kernel gives memory only when it is written, so this costs next to nothing until then. Raises InvalidSpec.
    """
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        with no_init_weights():
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
    except _BROKEN as error:
        raise no_model(folder, f"{type(error).__name__}: {error}") from error
    model.tie_weights()
    return model.eval()


def no_model(folder: Path, why: str) -> InvalidSpec:
    """Why a folder cannot be trained from, as a problem of the run spec."""
    return InvalidSpec(
        [FieldProblem("model.path", f"{folder} cannot be loaded: {why}", "a Hugging Face causal language model folder")]
    )
