"""What a tracker is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Tracker(Protocol):
    """Takes the numbers of one run, in the order in which they came to be. Made with the run resource and a folder."""

    place: str
    """Where people find what was taken, or how they get there."""

    def log(self, updates: int, numbers: Mapping[str, float]) -> None:
        """Numbers of the update that made this many, or of the weights after it."""

    def rewind(self, updates: int) -> None:
        """The run went on from a saved state: so many updates and more are made, and told, once more."""

    def close(self) -> None:
        """Keep what was taken."""
