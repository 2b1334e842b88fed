"""Where a run keeps what its services share: a folder that all of them see, or a prefix of an object store.

Below it lie folders with a manifest (published weights, training states), which a reader sees whole or not at all, and
small files, which are replaced as a whole. Both are named by their path from here, as in `checkpoints/v000050`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from syncline import checkpoints, objects
from syncline.bucket import BucketStorage
from syncline.cache import Cache
from syncline.checkpoints import MANIFEST, Manifest
from syncline.errors import CheckpointError, NotFound, StorageError
from syncline.objects import Objects

Parts = Mapping[str, tuple[int, str]]
"""Files that several processes wrote of one folder: name -> (bytes, SHA-256)."""


class Storage(Protocol):
    """Raises StoreUnreachable when it does not answer, StoreRefused when it says no, else what its methods name."""

    @property
    def uri(self) -> str:
        """What `storage_at` makes the same storage of, on any machine that can reach it."""

    def uri_of(self, name: str) -> str: ...

    def place_of(self, name: str) -> str:
        """Where a person finds it: a path, or a URL."""

    # -- folders with a manifest

    def folders(self, parent: str) -> Sequence[str]:
        """The whole folders in `parent`, in order of their names."""

    def manifest(self, name: str) -> Manifest:
        """What a folder says of itself. Raises CheckpointError."""

    def check(self, name: str) -> Manifest:
        """As `manifest`, and that all is there, as far as can be told without moving it. Raises CheckpointError."""

    def stage(self, name: str, *, digest: str | None = None) -> Path:
        """A local folder with every byte proven just now, and the manifest by `digest` if given.

        Raises DigestMismatch or CheckpointError.
        """

    def local(self, name: str) -> Path:
        """A local folder to read, proven when it came here if it had to come. Raises CheckpointError."""

    def write(self, name: str, fill: Callable[[Path], Mapping[str, Any]], *, parts: Parts | None = None) -> Manifest:
        """Let `fill` fill an empty folder, add `parts`, and make it appear. Raises CheckpointError.

        One with the same manifest is left alone, another one of this name is replaced.
        """

    def clear_parts(self, name: str) -> None:
        """Make ready for `write_part`; what an attempt left there that died is deleted. Raises CheckpointError."""

    def write_part(self, name: str, fill: Callable[[Path], Sequence[str]]) -> Parts:
        """Let `fill` write one process's files of a folder and return their names. Raises CheckpointError."""

    def delete(self, names: Iterable[str]) -> None:
        """Delete folders; those that are not there do not matter. Raises CheckpointError."""

    def sweep(self, parent: str) -> Sequence[str]:
        """Delete what writers that were killed left in `parent`; returns it. Only while nobody else writes there."""

    # -- small files

    def files(self, parent: str) -> Sequence[str]:
        """The files in `parent`, in order of their names."""

    def read_file(self, name: str) -> bytes:
        """Raises NotFound or StorageError."""

    def write_file(self, name: str, content: bytes) -> None:
        """Replace a file as a whole. Raises StorageError, and leaves what was there before."""

    def delete_files(self, names: Iterable[str]) -> None:
        """Those that are not there do not matter. Raises StorageError."""


def storage_at(uri: str, *, cache: Cache) -> Storage:
    """The storage at an s3:// or file:// URI, or at a path; `cache` takes local copies where they are needed."""
    if uri.startswith(objects.SCHEME):
        return BucketStorage(Objects(uri), cache=cache)
    if "://" not in uri:
        return FolderStorage(Path(uri))
    if not uri.startswith("file://"):
        raise CheckpointError(f"cannot reach {uri}: storage is a folder (file://) or an object store (s3://)")
    return FolderStorage(Path(unquote(urlsplit(uri).path)))


def prune(storage: Storage, names: Iterable[str], *, keep: int, in_use: Iterable[str] = ()) -> None:
    """Delete all but the newest `keep` of `names` (oldest first) and those in use. Raises CheckpointError."""
    ordered, protected = list(names), set(in_use)
    storage.delete([name for name in ordered[: max(0, len(ordered) - keep)] if name not in protected])


class FolderStorage:
    """A folder that all services see at the same path."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def uri(self) -> str:
        return self.root.resolve().as_uri()

    def uri_of(self, name: str) -> str:
        return (self.root / name).resolve().as_uri()

    def place_of(self, name: str) -> str:
        return str((self.root / name).resolve())

    def folders(self, parent: str) -> Sequence[str]:
        found = (self.root / parent).glob("[!.]*")
        return sorted(f"{parent}/{path.name}" for path in found if (path / MANIFEST).is_file())

    def manifest(self, name: str) -> Manifest:
        return checkpoints.read_manifest(self.root / name)

    def check(self, name: str) -> Manifest:
        return checkpoints.verify_folder(self.root / name)

    def stage(self, name: str, *, digest: str | None = None) -> Path:
        checkpoints.verify_folder(self.root / name, digest=digest)
        return self.root / name

    def local(self, name: str) -> Path:
        return self.root / name

    def write(self, name: str, fill: Callable[[Path], Mapping[str, Any]], *, parts: Parts | None = None) -> Manifest:
        def with_parts(folder: Path) -> Mapping[str, Any]:
            for part in parts or ():
                (self._parts_of(name) / part).rename(folder / part)
            if parts:
                self._parts_of(name).rmdir()
            return fill(folder)

        return checkpoints.write_folder(self.root / name, with_parts, parts=parts)

    def clear_parts(self, name: str) -> None:
        parts = self._parts_of(name)
        checkpoints.delete_folders(parts.parent.glob(".*.parts"))
        try:
            parts.mkdir(parents=True)
        except OSError as error:
            raise CheckpointError(f"{parts} could not be made: {error}; free space or mend the storage") from error

    def write_part(self, name: str, fill: Callable[[Path], Sequence[str]]) -> Parts:
        return checkpoints.write_part(self._parts_of(name), fill)

    def delete(self, names: Iterable[str]) -> None:
        checkpoints.delete_folders(self.root / name for name in names)

    def sweep(self, parent: str) -> Sequence[str]:
        return [str(path) for path in checkpoints.sweep(self.root / parent)]

    def files(self, parent: str) -> Sequence[str]:
        return sorted(f"{parent}/{path.name}" for path in (self.root / parent).glob("[!.]*") if path.is_file())

    def read_file(self, name: str) -> bytes:
        try:
            return (self.root / name).read_bytes()
        except FileNotFoundError as error:
            raise NotFound(f"{self.root / name} does not exist") from error
        except OSError as error:
            raise StorageError(f"{self.root / name} could not be read: {error}; mend the storage") from error

    def write_file(self, name: str, content: bytes) -> None:
        path = self.root / name
        try:
            path.parent.mkdir(exist_ok=True)
            checkpoints.write_bytes(path, content)
        except OSError as error:
            raise StorageError(f"{path} could not be written: {error}; free space or mend the storage") from error

    def delete_files(self, names: Iterable[str]) -> None:
        for name in names:
            try:
                (self.root / name).unlink(missing_ok=True)
            except OSError as error:
                raise StorageError(f"{self.root / name} could not be deleted: {error}; mend the storage") from error

    def _parts_of(self, name: str) -> Path:
        path = self.root / name
        return path.parent / f".{path.name}.parts"
