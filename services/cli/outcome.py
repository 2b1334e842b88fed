"""A run that is over, with what was made of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the report is made of."""

    run: Mapping[str, Any]
    """The run resource."""
    summary: Mapping[str, Any]
    """What summary.json holds."""
    summary_path: Path
    """Where it is, on this machine."""
    picture: Path | None
    """The learning curve, if any step was made."""
    next_command: str
    """What to try next."""
