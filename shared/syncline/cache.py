"""Local copies of what lies in an object store: one folder each, there in full or not at all.

    <cache root>/<kind>/<key>/      a copy; its key names the content
    <cache root>/<kind>/.lock       held by who fetches

Processes of one machine may share a cache. Who uses a copy holds a lock on its folder, which ends with the process at
the latest; copies that nobody holds are deleted with the next fetch.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from syncline.errors import StorageError, Unavailable

_FETCH_DEADLINE_S = 3600.0
"""Longest that a process waits for another one that fetches into the same cache."""
_POLL_S = 0.1


class Cache:
    """The copies that one process uses. Making one touches no disk."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._held: OrderedDict[Path, int] = OrderedDict()
        self._guard = threading.RLock()

    def folder(self, kind: str, key: str, fill: Callable[[Path], None], *, keep: int) -> Path:
        """The copy with this key; `fill` fetches it into an empty folder where it is missing.

        The newest `keep` folders that were asked for stay; older ones may go with the next fetch. Raises StorageError
        when the disk refuses, and what `fill` raises.
        """
        target = self.root.absolute() / kind / key
        if not self._hold(target):
            with self._fetching(target.parent):
                if not target.is_dir():
                    _fetch(target, fill)
                assert self._hold(target), "nobody deletes while this process fetches"
                self._release(target.parent, keep=keep)
                self._delete_unused(target.parent)
        return target

    def discard(self, folder: Path) -> None:
        """Delete a copy that is damaged."""
        self._forget(folder)
        with self._fetching(folder.parent):
            _delete(folder)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """An empty folder for what is on its way to the store. What killed processes left of theirs is deleted."""
        folder = self.root.absolute() / "scratch" / uuid.uuid4().hex[:8]
        with self._fetching(folder.parent):
            _fetch(folder, lambda empty: None)
            assert self._hold(folder), "nobody deletes while this process fetches"
            self._delete_unused(folder.parent)
        try:
            yield folder
        finally:
            self._forget(folder)
            shutil.rmtree(folder, ignore_errors=True)

    def _hold(self, target: Path) -> bool:
        """Take a lock on a copy, so that no process deletes it; False when it is not there."""
        with self._guard:
            if target in self._held and target.is_dir():
                self._held.move_to_end(target)
                return True
            self._forget(target)
            try:
                descriptor = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
            except OSError:
                return False
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
                if os.fstat(descriptor).st_ino == target.stat().st_ino:  # else it was moved away before the lock
                    self._held[target] = descriptor
                    return True
            except OSError:
                pass
            os.close(descriptor)
            return False

    def _forget(self, target: Path) -> None:
        with self._guard:
            if (descriptor := self._held.pop(target, None)) is not None:
                os.close(descriptor)

    def _release(self, parent: Path, *, keep: int) -> None:
        with self._guard:
            held = [target for target in self._held if target.parent == parent]
            for target in held[: max(0, len(held) - keep)]:
                self._forget(target)

    def _delete_unused(self, parent: Path) -> None:
        """Only while this process fetches."""
        for path in parent.iterdir():
            if path.name.startswith(".") or path in self._held:
                continue
            with suppress(OSError):
                descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    _delete(path)
                finally:
                    os.close(descriptor)

    @contextmanager
    def _fetching(self, parent: Path) -> Iterator[None]:
        """One at a time: what another process fetches is not fetched again. Raises Unavailable after an hour."""
        try:
            parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(parent / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise _refused(parent, error) from error
        try:
            deadline = time.monotonic() + _FETCH_DEADLINE_S
            while not _locked(descriptor):
                if time.monotonic() > deadline:
                    raise Unavailable(
                        f"another process fetches into {parent} since {_FETCH_DEADLINE_S:g} s; is it stuck?"
                    )
                time.sleep(_POLL_S)
            yield
        finally:
            os.close(descriptor)


def _fetch(target: Path, fill: Callable[[Path], None]) -> None:
    for left in target.parent.glob(".*.tmp-*"):  # of a process that was killed: only one fetches at a time
        shutil.rmtree(left, ignore_errors=True)
    temporary = target.parent / f".{target.name}.tmp-{uuid.uuid4().hex[:8]}"
    try:
        temporary.mkdir()
        fill(temporary)
        temporary.rename(target)
    except OSError as error:
        raise _refused(target, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _delete(folder: Path) -> None:
    doomed = folder.parent / f".{folder.name}.tmp-{uuid.uuid4().hex[:8]}"
    with suppress(FileNotFoundError):
        folder.rename(doomed)  # first out of sight, so that nobody starts to read it
    shutil.rmtree(doomed, ignore_errors=True)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _refused(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{path} could not be written: {error.strerror or error}; give the cache more room, or another folder "
        "(SYNCLINE_CACHE_ROOT)"
    )
