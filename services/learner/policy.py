"""Causal language models that score completions: the policy in training, and frozen ones for reference.

With dtype bfloat16 the policy keeps its parameters in float32 and computes with copies in bfloat16: an update of a
learning rate like 1e-6 is lost when it is added to a bfloat16 number. The copies are what is published, so the
learner's log-probabilities are those of the published weights.

Above one rank the parameters are shards, and every rank takes part in each call.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.func import functional_call
from transformers import AutoModelForCausalLM

from services.learner import shards
from services.learner.batch import TokenRows
from services.learner.ranks import Ranks
from services.learner.recompute import recompute_activations
from syncline.algo.logprobs import token_scores
from syncline.errors import FieldProblem, InvalidSpec

ALONE = Ranks()
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Policy:
    """A model that computes in `dtype` on `device`."""

    def __init__(self, model: Any, *, dtype: torch.dtype, device: torch.device, ranks: Ranks) -> None:
        self.model = model.to(device) if ranks.size == 1 else model
        self.dtype = dtype
        self.device = device
        self.ranks = ranks
        if ranks.size > 1:
            shards.shard(model, ranks=ranks, dtype=dtype, device=device)

    @classmethod
    def trainable(
        cls,
        folder: Path,
        *,
        dtype: torch.dtype,
        device: torch.device,
        ranks: Ranks = ALONE,
        recompute: bool = False,
    ) -> Policy:
        """Parameters in float32, whatever the model computes in; with `recompute`, activations are not kept.

        Raises InvalidSpec for a folder that is no model.
        """
        model = ranks.together(lambda: load_model(folder))
        if recompute:
            recompute_activations(model, copied=ranks.size == 1 and dtype != torch.float32)
        return cls(model, dtype=dtype, device=device, ranks=ranks)

    @classmethod
    def frozen(cls, folder: Path, *, dtype: torch.dtype, device: torch.device, ranks: Ranks = ALONE) -> Policy:
        """Parameters in `dtype`, without gradient; buffers as in a trainable policy, so both compute the same."""
        model = ranks.together(lambda: load_model(folder))
        for parameter in model.parameters():
            parameter.requires_grad_(False)
            parameter.data = parameter.data.to(dtype)
        return cls(model, dtype=dtype, device=device, ranks=ranks)

    @property
    def vocabulary(self) -> int:
        """Number of token ids that the model knows."""
        return int(self.model.get_input_embeddings().num_embeddings)

    def named_parameters(self) -> list[tuple[str, torch.nn.Parameter]]:
        """Tied parameters once, in a fixed order."""
        return list(self.model.named_parameters())

    def num_parameters(self) -> int:
        return sum(parameter.numel() for _, parameter in self.named_parameters())

    def score(self, rows: TokenRows) -> tuple[Tensor, Tensor]:
        """log p and entropy at each target, each [R, T] in float32, with gradient. Masked positions mean nothing."""
        output = self._call(
            input_ids=rows.input_ids_RW,
            use_cache=False,
            logits_to_keep=rows.num_targets
            + 1,  # what predicts the first target, and the last column, that predicts none
        )
        return token_scores(output.logits[:, :-1], rows.targets_RT)

    def weights(self) -> dict[str, Tensor]:
        """The state dict in `dtype`, as it is published; what is tied stays tied. Above one rank it is whole, on the
        CPU, on rank 0, and empty on the others."""
        if self.ranks.size > 1:
            return self._gathered_weights()
        cast: dict[int, Tensor] = {}
        state: dict[str, Tensor] = self.model.state_dict()
        return {
            name: cast.setdefault(tensor.data_ptr(), tensor.to(self.dtype)) if tensor.is_floating_point() else tensor
            for name, tensor in state.items()
        }

    def _gathered_weights(self) -> dict[str, Tensor]:
        """One tensor at a time, so that no GPU ever holds the whole model."""
        tied = {name: id(parameter) for name, parameter in self.model.named_parameters(remove_duplicate=False)}
        gathered: dict[str | int, Tensor] = {}
        state: dict[str, Tensor] = self.model.state_dict()
        for name, tensor in state.items():
            if (key := tied.get(name, name)) not in gathered:
                whole = shards.whole(tensor.to(self.dtype) if tensor.is_floating_point() else tensor)
                gathered[key] = whole.cpu() if self.ranks.rank == 0 else torch.empty(0)
        return {name: gathered[tied.get(name, name)] for name in state} if self.ranks.rank == 0 else {}

    def _call(self, **inputs: Any) -> Any:
        if self.ranks.size > 1:
            return self.model(**inputs)  # FSDP makes the copies in `dtype`, a block at a time
        copies = {
            name: parameter.to(self.dtype)
            for name, parameter in self.named_parameters()
            if parameter.dtype != self.dtype
        }
        return functional_call(self.model, copies, kwargs=inputs) if copies else self.model(**inputs)


def load_model(folder: Path) -> Any:
    """The model of a Hugging Face folder in float32 on the CPU. Reads safetensors only and runs no code of the folder.

    It stays in eval mode: dropout would make the policy differ from the one that generated.
    Raises InvalidSpec when the folder holds no complete model.
    """
    if not (folder / "config.json").is_file():
        raise _no_model(folder, "there is no config.json in it")
    if not list(folder.glob("*.safetensors")):
        raise _no_model(folder, "there are no *.safetensors in it")
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        raise _no_model(folder, f"{type(error).__name__}: {error}") from error
    # A weight that the files lack would train from random numbers, and nobody would notice.
    if missing := sorted({*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])}):
        raise _no_model(folder, f"its files lack {len(missing)} weights or have them in another shape: {missing[:3]}")
    return model.eval()


def _no_model(folder: Path, why: str) -> InvalidSpec:
    return InvalidSpec(
        [FieldProblem("model.path", f"{folder} cannot be loaded: {why}", "a Hugging Face causal language model folder")]
    )
