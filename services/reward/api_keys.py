"""The API keys that run specs name: from the environment, or from the files of a mounted secret.

A key is checked before it is used, because what is sent with a broken one fails in some library, whose message
quotes it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from syncline import telemetry
from syncline.errors import Unavailable

_KEY = re.compile(r"[!-~]+")
_MOST_BYTES = 16_384


class ApiKeys:
    """Keys by their names. Read anew for each request, as a mounted secret may be rotated."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def named(self, name: str) -> str:
        """The key. Raises Unavailable, with what to do, where there is none and where it can be none."""
        variable = f"SYNCLINE_KEY_{name.upper().replace('-', '_')}"
        if found := os.environ.get(variable, "").strip():
            return _checked(found, name, place=f"the variable {variable}")
        file = self._folder / name if self._folder else None
        if file is not None and file.is_file() and (found := _text(file, name)):
            return _checked(found, name, place=f"the file {file}")
        also = f", or a file {file}" if file else ""
        raise Unavailable(f"the reward service has no key {name!r}; give it the variable {variable}{also}")


def _text(file: Path, name: str) -> str:
    try:
        with file.open("rb") as opened:
            return opened.read(_MOST_BYTES).decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise _broken(name, f"the file {file}", "is not UTF-8") from None
    except OSError as error:
        raise Unavailable(f"the key {name!r} cannot be read: {file}: {error.strerror}; mend its rights") from None


def _checked(key: str, name: str, *, place: str) -> str:
    telemetry.conceal(key)
    if _KEY.fullmatch(key):
        return key
    lines = len(key.splitlines())
    what = f"has {lines} lines" if lines > 1 else "holds spaces, or characters that are not ASCII, as quotes of prose"
    raise _broken(name, place, what)


def _broken(name: str, place: str, what: str) -> Unavailable:
    return Unavailable(f"the key {name!r} is none: {place} {what}; put the key there and nothing else")
