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
    """Tokens, padding included, of one forward pass; the pairs of one prompt are never parted, however long. Lower it
    when memory runs out. Equal results need equal numbers."""

    stop_timeout_s: float = Field(default=60.0, gt=0.0)
    """Seconds that the start of a run waits for another one to stop, before it is told to try again; and that a
    learner which is ended waits for its own."""

    rank_timeout_s: float = Field(default=1800.0, gt=0.0)
    """Above one rank (torchrun): seconds that a rank waits for one that hangs, or for rank 0 to write a checkpoint. A
    rank that dies is noticed at once."""

    def torch_device(self, *, local_rank: int | None = None) -> torch.device:
        """Where the model trains; with `local_rank`, one of several ranks on a node, the GPU of that number."""
        name = self.device
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        return torch.device("cuda", local_rank) if name == "cuda" and local_rank is not None else torch.device(name)
