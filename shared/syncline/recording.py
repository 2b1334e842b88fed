"""The rollouts that a run trained on, kept on its storage: one file a step, there in full or not at all.

    rollouts/step-000012.jsonl.gz      rows as in `syncline.rollout_rows`, in the order of prompt indices

A run that goes on from a saved state writes the steps that it repeats anew, over what was there.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterable, Iterator

from syncline.rollout_rows import RolloutRow
from syncline.storage import Storage

_FOLDER = "rollouts"
_NAME = re.compile(rf"{_FOLDER}/step-(\d+)\.jsonl\.gz")
_COMPRESSION = 3  # token ids and numbers: higher levels cost more seconds than they save bytes


def write_step(storage: Storage, step: int, rows: Iterable[RolloutRow]) -> None:
    """Record one step; equal rows give equal bytes. Raises StorageError, and leaves what was there before."""
    lines = "".join(f"{row.model_dump_json()}\n" for row in rows)
    storage.write_file(_name_of(step), gzip.compress(lines.encode(), _COMPRESSION, mtime=0))


def recorded_steps(storage: Storage) -> list[int]:
    """Steps that are recorded, in order."""
    found = (_NAME.fullmatch(name) for name in storage.files(_FOLDER))
    return sorted(int(match[1]) for match in found if match)


def read_step(storage: Storage, step: int) -> Iterator[str]:
    """The rows of one step as lines of JSON, line ends included. Raises NotFound and StorageError."""
    text = gzip.decompress(storage.read_file(_name_of(step))).decode()
    return (f"{line}\n" for line in text.split("\n")[:-1])


def forget_from(storage: Storage, step: int) -> None:
    """Delete what is recorded of `step` and later ones."""
    storage.delete_files(_name_of(beyond) for beyond in recorded_steps(storage) if beyond >= step)


def _name_of(step: int) -> str:
    return f"{_FOLDER}/step-{step:06d}.jsonl.gz"
