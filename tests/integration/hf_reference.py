"""What a model says by the shortest path through transformers: the reference that every engine is held to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM


class Reference:
    """A freshly loaded model. All values are float32 on the CPU unless the dtype says otherwise."""

    def __init__(self, model_dir: Path, dtype: torch.dtype = torch.float32) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=dtype).eval()

    @torch.no_grad()
    def greedy(self, prompt: Sequence[int], max_tokens: int) -> list[int]:
        """The greedy continuation, up to the end-of-text token and with it."""
        ids = torch.tensor([list(prompt)])
        full = self.model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=max_tokens)
        return [int(token) for token in full[0, len(prompt) :]]

    @torch.no_grad()
    def log_probs(self, token_ids: Sequence[int]) -> list[float]:
        """log p(token_i | tokens before it) for i >= 1."""
        ids = torch.tensor([list(token_ids)])
        rows = self.model(ids).logits[0, :-1].float().log_softmax(-1)
        return [float(value) for value in rows.gather(1, ids[0, 1:, None])[:, 0]]

    @torch.no_grad()
    def next_token_probs(self, prompt: Sequence[int], temperature: float = 1.0) -> torch.Tensor:
        """The distribution of the next token, (V,)."""
        logits: torch.Tensor = self.model(torch.tensor([list(prompt)])).logits[0, -1].float()
        return (logits / temperature).softmax(-1)
