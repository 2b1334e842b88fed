"""TensorBoard: event files in a folder, one subfolder a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter


class TensorBoard:
    """Told again, whether by a resumed run or by a second call, a step replaces what was told of it before."""

    def __init__(self, run: Mapping[str, Any], *, folder: Path) -> None:
        self._folder = folder / run["id"]
        self._files = 0
        self._writer = self._writer_from(0)
        self._writer.add_text("spec", f"```json\n{json.dumps(run['spec'], indent=2)}\n```", 0)
        self.place = f"tensorboard --logdir {folder}"

    def log(self, updates: int, numbers: Mapping[str, float]) -> None:
        for name, number in numbers.items():
            self._writer.add_scalar(name, number, updates)

    def rewind(self, updates: int) -> None:
        self._writer.close()
        self._writer = self._writer_from(updates)

    def close(self) -> None:
        self._writer.close()

    def _writer_from(self, updates: int) -> SummaryWriter:
        self._files += 1  # names hold the second, and TensorBoard reads files in the order of their names
        return SummaryWriter(str(self._folder), purge_step=updates, filename_suffix=f".{self._files:06d}")
