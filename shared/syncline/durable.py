"""Files that are there in full or not at all, also after a loss of power.

What is being written has a name of its own, `.NAME.tmp-...` beside NAME; what a killed writer left is swept away.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Write a small file. Raises OSError, and leaves what was there before."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file. Raises OSError, and leaves what was there before."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write that takes the place of `path` at the end, or is gone if anything is raised before that."""
    temporary = path.parent / f".{path.name}.tmp-{uuid.uuid4().hex[:8]}"
    try:
        yield temporary
        fsync(temporary)
        os.replace(temporary, path)
        fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sweep(folder: Path) -> list[Path]:
    """Delete what writers left in `folder` that were killed: half-written and half-deleted things; returns them.

    Only for a folder that nobody else writes to at the moment.
    """
    left = [path for kind in ("tmp", "del") for path in sorted(folder.glob(f".*.{kind}-*"))]
    for path in left:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return left


def fsync(path: Path) -> None:
    """Return when a file, or the names in a folder, would outlive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
