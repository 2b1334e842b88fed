"""Weights & Biases: online with a key, else offline in a folder, to be sent later."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb

from syncline.errors import SynclineError

PROJECT = "syncline"
_X_AXIS = "updates"


class WeightsAndBiases:
    """The environment variables of W&B hold: WANDB_API_KEY, WANDB_PROJECT, WANDB_ENTITY, WANDB_MODE, WANDB_BASE_URL.

    W&B takes nothing back: what a resumed run makes anew is there twice.
    """

    def __init__(self, run: Mapping[str, Any], *, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        chosen = os.environ.get("WANDB_MODE")
        offline = chosen == "offline" or not (chosen or wandb.api.api_key)
        self._run = _begun(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            id=run["id"],
            name=run["id"],
            config=run["spec"],
            dir=str(folder),
            mode="offline" if offline else None,
            resume=None if offline else "allow",
            settings=wandb.Settings(console="off", silent=True, disable_git=True),
        )
        self._run.define_metric(_X_AXIS)
        self._run.define_metric("*", step_metric=_X_AXIS)
        self.place = f"wandb sync {Path(self._run.dir).parent}" if offline else str(self._run.url)

    def log(self, updates: int, numbers: Mapping[str, float]) -> None:
        self._run.log({_X_AXIS: updates, **numbers})

    def rewind(self, updates: int) -> None:
        pass

    def close(self) -> None:
        self._run.finish()


def _begun(**options: Any) -> wandb.Run:
    try:
        return wandb.init(**options)
    except wandb.Error as error:
        raise SynclineError(
            f"W&B refuses ({error}); check WANDB_API_KEY and WANDB_BASE_URL, or set WANDB_MODE=offline"
        ) from error
