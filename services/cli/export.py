"""Exported lines on their way to standard output or to a file."""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, cast

from rich.console import Console

from syncline import durable
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
    rows = 0
    try:
        with (
            durable.replacing(path) as temporary,
            _opened(temporary, packed=path.suffix == ".gz") as out,
            console.status("exporting") as status,
        ):
            for chunk in chunks:
                out.write(chunk)
                rows += chunk.count(b"\n")
                status.update(f"exporting: {rows:,} rows")
    except OSError as error:
        raise SynclineError(f"{path} could not be written: {error}; free space, or name another file") from error
    return rows


def _opened(path: Path, *, packed: bool) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "wb")) if packed else path.open("wb")
