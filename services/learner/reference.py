"""The reference policy: frozen at the seed, or following the generators at each sync (section 3 of the paper)."""

from __future__ import annotations

from pathlib import Path

import torch

from services.learner.policy import ALONE, Policy
from services.learner.ranks import Ranks
from syncline.published import name_of
from syncline.storage import Storage


class Reference:
    """Loads the model that a step needs and keeps it until another is needed."""

    def __init__(
        self,
        *,
        seed_folder: Path,
        storage: Storage,
        sync: bool,
        dtype: torch.dtype,
        device: torch.device,
        ranks: Ranks = ALONE,
    ) -> None:
        self._seed_folder = seed_folder
        self._storage = storage
        self._sync = sync
        self._dtype = dtype
        self._device = device
        self._ranks = ranks
        self._version: int | None = None
        self._policy: Policy | None = None

    def for_rollouts_of(self, version: int) -> Policy:
        """The seed; with `sync` the published version that generated the rollouts."""
        wanted = version if self._sync else 0
        if self._policy is None or wanted != self._version:
            self._policy = None  # free the old one first: two do not fit where one does
            folder = self._ranks.together(lambda: self._storage.local(name_of(wanted))) if wanted else self._seed_folder
            self._policy = Policy.frozen(folder, dtype=self._dtype, device=self._device, ranks=self._ranks)
            self._version = wanted
        return self._policy
