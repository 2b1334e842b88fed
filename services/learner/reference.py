"""The reference policy: frozen at the seed, or following the generators at each sync (section 3 of the paper)."""

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
        seed_folder: Path,
        run_dir: Path,
        sync: bool,
        dtype: torch.dtype,
        device: torch.device,
        ranks: Ranks = ALONE,
    ) -> None:
        self._seed_folder = seed_folder
        self._run_dir = run_dir
        self._sync = sync
        self._dtype = dtype
        self._device = device
        self._ranks = ranks
        self._folder: Path | None = None
        self._policy: Policy | None = None

    def for_rollouts_of(self, version: int) -> Policy:
        """The seed; with `sync` the published version that generated the rollouts."""
        follows = self._sync and version > 0
        folder = checkpoints.version_folder(self._run_dir, version) if follows else self._seed_folder
        if self._policy is None or folder != self._folder:
            self._policy = None  # free the old one first: two do not fit where one does
            self._policy = Policy.frozen(folder, dtype=self._dtype, device=self._device, ranks=self._ranks)
            self._folder = folder
        return self._policy
