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
from torch import Tensor
from torch.func import functional_call

from services.learner import shards
from services.learner.batch import TokenRows
from services.learner.hf_model import load_model, no_model, skeleton
from services.learner.ranks import Ranks
from services.learner.recompute import recompute_activations
from services.learner.scorer import Scorer

ALONE = Ranks()
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
TOLERANCES = {torch.float32: 1e-3, torch.bfloat16: 0.35}
"""Nats that two honest ways to compute one log-probability may differ by: those of float32 engines were seen to differ
by 1e-5, of bfloat16 ones by 0.1 to 0.2 on sharp random models. What a way leaves out makes far more."""


class Policy:
    """A model that computes in `dtype` on `device`.

    Above one rank only rank 0 reads the weights. The others begin with an empty model, which costs no memory before it
    is cut into shards, and get their shards from rank 0.
    """

    def __init__(
        self, folder: Path, *, frozen: bool, recompute: bool, dtype: torch.dtype, device: torch.device, ranks: Ranks
    ) -> None:
        self.folder = folder
        """What it was loaded from: its tokenizer and configuration are those of every version."""
        self.dtype = dtype
        self.device = device
        self.ranks = ranks
        if ranks.size == 1:
            self.model = load_model(folder)
        else:
            full = ranks.together(lambda: load_model(folder) if ranks.rank == 0 else None)
            self.model = ranks.together(lambda: skeleton(folder))
        if frozen:
            _freeze(self.model, dtype)
        if recompute:
            recompute_activations(self.model, copied=ranks.size == 1 and dtype != torch.float32)
        self._scorer = Scorer(self.model).eval()
        if ranks.size == 1:
            self.model.to(device)
        else:
            shards.shard(self._scorer, blocks=shards.blocks_of(self.model), ranks=ranks, dtype=dtype, device=device)
            shards.fill(self.model, full, ranks=ranks, device=device)

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
        policy = cls(folder, frozen=False, recompute=recompute, dtype=dtype, device=device, ranks=ranks)
        policy._check_scores(folder)
        return policy

    @classmethod
    def frozen(cls, folder: Path, *, dtype: torch.dtype, device: torch.device, ranks: Ranks = ALONE) -> Policy:
        """Parameters in `dtype`, without gradient; buffers as in a trainable policy, so both compute the same."""
        return cls(folder, frozen=True, recompute=False, dtype=dtype, device=device, ranks=ranks)

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
        """log p and entropy at each target, each [R, T] in float32, with gradient; 0 where the mask is False."""
        return self._call(rows.input_ids_RW, rows.mask_RT)

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

    def _call(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if self.ranks.size > 1:
            return self._scorer(*args, **kwargs)  # type: ignore[no-any-return]  # FSDP makes the copies in `dtype`
        copies = {
            f"model.{name}": parameter.to(self.dtype)
            for name, parameter in self.named_parameters()
            if parameter.dtype != self.dtype
        }
        scores: tuple[Tensor, Tensor] = functional_call(self._scorer, copies, args, kwargs)
        return scores

    @torch.no_grad()
    def _check_scores(self, folder: Path) -> None:
        """Raise InvalidSpec for a model whose logits are made in a way that the scorer does not know."""
        ids_RW = (torch.arange(8, device=self.device) * max(1, self.vocabulary // 8)).unsqueeze(0)
        mask_RT = torch.ones(1, 7, dtype=torch.bool, device=self.device)
        ours, own = (self._call(ids_RW, mask_RT, plain=plain)[0] for plain in (False, True))
        difference = (ours - own).abs().max().item()
        if not difference < TOLERANCES[self.dtype]:
            why = f"its logits are more than a scaled or capped linear layer (scores differ by {difference:.3g} nats)"
            raise no_model(folder, why)


def _freeze(model: Any, dtype: torch.dtype) -> None:
    for parameter in model.parameters():
        parameter.requires_grad_(False)
        parameter.data = parameter.data.to(dtype)
