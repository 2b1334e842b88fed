"""The rollouts that a run trained on, kept in its folder: one file a step, there in full or not at all.

    <run folder>/rollouts/step-000012.jsonl.gz      rows as in `syncline.rollout_rows`, in the order of prompt indices

A run that goes on from a saved state writes the steps that it repeats anew, over what was there.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Iterator
from pathlib import Path

from syncline import checkpoints
from syncline.rollout_rows import RolloutRow

_COMPRESSION = 3  # token ids and numbers: higher levels cost more seconds than they save bytes


def write_step(run_dir: Path, step: int, rows: Iterable[RolloutRow]) -> None:
    """Record one step; equal rows give equal bytes. Raises OSError, and leaves what was there before."""
    lines = "".join(f"{row.model_dump_json()}\n" for row in rows)
    path = _path(run_dir, step)
    path.parent.mkdir(exist_ok=True)
    checkpoints.write_bytes(path, gzip.compress(lines.encode(), _COMPRESSION, mtime=0))


def recorded_steps(run_dir: Path) -> list[int]:
    """Steps that are recorded, in order."""
    return sorted(int(path.name[5:-9]) for path in (run_dir / "rollouts").glob("step-[0-9]*.jsonl.gz"))


def read_step(run_dir: Path, step: int) -> Iterator[str]:
    """The rows of one step as lines of JSON, line ends included."""
    with gzip.open(_path(run_dir, step), "rt", encoding="utf-8", newline="\n") as lines:
        yield from lines


def recorded_from(run_dir: Path, step: int) -> list[Path]:
    """The files of `step` and later ones."""
    return [_path(run_dir, beyond) for beyond in recorded_steps(run_dir) if beyond >= step]


def _path(run_dir: Path, step: int) -> Path:
    return run_dir / "rollouts" / f"step-{step:06d}.jsonl.gz"
