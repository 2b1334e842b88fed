"""Deployment settings of the learner."""

from __future__ import annotations

import torch
from pydantic import Field

from syncline.settings import ServiceSettings


class LearnerSettings(ServiceSettings):
    """Environment variables, beside those of every service."""

    device: str = "auto"
    """Where the model trains: auto (a GPU when there is one), cpu, cuda or cuda:N."""
    torch_threads: int = Field(default=1, ge=1)
    """Threads of one torch operation on a CPU. Equal results need equal numbers."""
    micro_batch_tokens: int = Field(default=16_384, ge=1)
    """Tokens, padding included, of one forward pass; a prompt group is never cut, however long. Lower it when memory
    runs out. Equal results need equal numbers."""

    def torch_device(self) -> torch.device:
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device)
