"""Exported lines on their way to standard output or to a file."""

from __future__ import annotations

import gzip
import os
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, cast

from rich.console import Console

from syncline.errors import SynclineError


def to_stream(chunks: Iterable[bytes], out: BinaryIO) -> None:
    """Pass everything on as it comes."""
    for chunk in chunks:
        out.write(chunk)
    out.flush()


def to_file(chunks: Iterable[bytes], path: Path, *, console: Console) -> int:
    """Replace `path` when the last line is written, and not before; a name that ends in .gz is packed.

    Returns the number of lines. Raises SynclineError when the file cannot be written.
    """
    temporary = path.parent / f".{path.name}.tmp-{uuid.uuid4().hex[:8]}"
    rows = 0
    try:
        with console.status("exporting") as status, _opened(temporary, packed=path.suffix == ".gz") as out:
            for chunk in chunks:
                out.write(chunk)
                rows += chunk.count(b"\n")
                status.update(f"exporting: {rows:,} rows")
        os.replace(temporary, path)
    except OSError as error:
        raise SynclineError(f"{path} could not be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return rows


def _opened(path: Path, *, packed: bool) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "wb")) if packed else path.open("wb")
