"""A file whose readers wait, as on storage that does not answer."""

from __future__ import annotations

import os
from pathlib import Path


class HangingFile:
    """Takes the place of a file, as a named pipe, until `answer` puts the file back and lets the reader go on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._content = path.read_bytes()
        self._writer = -1
        path.unlink()
        os.mkfifo(path)

    def is_read(self) -> bool:
        """Whether somebody waits for the content by now."""
        if self._writer < 0:
            try:
                self._writer = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK)
            except OSError:  # no reader yet
                return False
        return True

    def answer(self) -> None:
        """End the wait of the reader that `is_read` told of."""
        self._path.unlink()
        self._path.write_bytes(self._content)
        os.write(self._writer, self._content)
        os.close(self._writer)
