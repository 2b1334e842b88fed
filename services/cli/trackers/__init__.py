"""Where a run's numbers can go beside the coordinator's own records: one file and one line each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from services.cli.trackers.tracker import Tracker
from syncline.errors import SynclineError

# name -> the class, and the package that it needs, which is loaded when somebody asks for it
_TRACKERS: Mapping[str, tuple[str, str, str]] = {
    "tensorboard": ("services.cli.trackers.tensorboard", "TensorBoard", "tensorboardX"),
    "wandb": ("services.cli.trackers.wandb", "WeightsAndBiases", "wandb"),
}
NAMES = tuple(_TRACKERS)


def open_tracker(name: str, run: Mapping[str, Any], *, folder: Path) -> Tracker:
    """A tracker for this run, with its files below `folder`.

    Raises SynclineError for one that is not known, or whose package is not installed.
    """
    if name not in _TRACKERS:
        raise SynclineError(f"{name!r} is no tracker that is known; there are: {', '.join(NAMES)}")
    module, kind, package = _TRACKERS[name]
    try:
        make: Callable[..., Tracker] = getattr(import_module(module), kind)
    except ModuleNotFoundError as error:
        raise SynclineError(f"{name} needs a package ({error}): pip install {package}") from None
    return make(run, folder=folder)
