"""The reference policy: frozen at the seed, or following the generators at each sync (paper section 2)."""

from __future__ import annotations

from pathlib import Path

import torch

from services.learner.policy import ALONE, Policy
from services.learner.ranks import Ranks
from syncline import checkpoints


class Reference:
    """Loads the model that a step needs and keeps it until another is needed."""

    def __init__(
        self,
        *,
        run_dir: Path,
        sync: bool,
        dtype: torch.dtype,
        device: torch.device,
        ranks: Ranks = ALONE,
    ) -> None:
        self._run_dir = run_dir
        self._sync = sync
        self._dtype = dtype
        self._device = device
        self._ranks = ranks
        self._folder: Path | None = None
        self._policy: Policy | None = None

    def for_rollouts_of(self, version: int) -> Policy:
        """The seed as the run published it, version 0; with `sync` the version that generated the rollouts."""
        folder = checkpoints.version_folder(self._run_dir, version if self._sync else 0)
        if self._policy is None or folder != self._folder:
            self._policy = None  # free the old one first: two do not fit where one does
            self._policy = Policy.frozen(folder, dtype=self._dtype, device=self._device, ranks=self._ranks)
            self._folder = folder
        return self._policy
