"""A run's storage in an object store (see `syncline.storage` for what the methods promise).

Objects of a folder are written first and its manifest last, and deleted the other way round: a folder without manifest
does not exist for readers. What is read comes as a local copy, named by the digest of its manifest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from syncline import checkpoints
from syncline.cache import Cache
from syncline.checkpoints import MANIFEST, Manifest
from syncline.errors import CheckpointError, DigestMismatch, NotFound, StorageError, StoreRefused
from syncline.objects import Found, Objects

_KIND = "checkpoints"
_COPIES = 2  # what is in use, and what is coming


class BucketStorage:
    """Below one s3:// URL."""

    def __init__(self, objects: Objects, *, cache: Cache) -> None:
        self._objects = objects
        self._cache = cache

    @property
    def uri(self) -> str:
        return self._objects.url

    def uri_of(self, name: str) -> str:
        return self._objects.url_of(name)

    def place_of(self, name: str) -> str:
        return self._objects.url_of(name)

    # -- folders with a manifest

    def folders(self, parent: str) -> Sequence[str]:
        return [folder for folder, files in self._listed(parent).items() if MANIFEST in files]

    def manifest(self, name: str) -> Manifest:
        return checkpoints.parse_manifest(self._manifest_text(name), of=self.uri_of(name))

    def check(self, name: str) -> Manifest:
        """By names and sizes: the store keeps the bytes, and `stage` proves them."""
        manifest = self.manifest(name)
        there = {path.rpartition("/")[2]: found.num_bytes for path, found in self._objects.below(name).items()}
        for file, (num_bytes, _) in manifest.files.items():
            if there.get(file) != num_bytes:
                raise DigestMismatch(
                    f"{self.uri_of(name)}/{file} has {there.get(file, 'no')} bytes, the manifest says {num_bytes}"
                )
        return manifest

    def stage(self, name: str, *, digest: str | None = None) -> Path:
        text = self._manifest_text(name)
        manifest = checkpoints.parse_manifest(text, of=self.uri_of(name))
        if digest is not None and manifest.digest != digest:
            raise DigestMismatch(
                f"{self.uri_of(name)}/{MANIFEST} has digest {manifest.digest}, the handle says {digest}"
            )
        was_here = True

        def fetch(folder: Path) -> None:
            nonlocal was_here
            was_here = False
            self._fetch(name, text, manifest, folder)

        copy = self._cache.folder(_KIND, manifest.digest, fetch, keep=_COPIES)
        if was_here:
            try:
                checkpoints.verify_folder(copy, digest=manifest.digest)
            except CheckpointError:  # the local disk damaged it; the original may be well
                self._cache.discard(copy)
                copy = self._cache.folder(_KIND, manifest.digest, fetch, keep=_COPIES)
        return copy

    def local(self, name: str) -> Path:
        text = self._manifest_text(name)
        manifest = checkpoints.parse_manifest(text, of=self.uri_of(name))
        fetch = lambda folder: self._fetch(name, text, manifest, folder)  # noqa: E731
        return self._cache.folder(_KIND, manifest.digest, fetch, keep=_COPIES)

    def write(
        self,
        name: str,
        fill: Callable[[Path], Mapping[str, Any]],
        *,
        parts: Mapping[str, tuple[int, str]] | None = None,
    ) -> Manifest:
        with self._cache.scratch() as scratch:
            folder = scratch / name.rpartition("/")[2]
            manifest = checkpoints.write_folder(folder, fill, parts=parts)
            if not self._holds(name, manifest):
                own = [file for file in manifest.files if file not in (parts or {})]
                there = self._objects.below(name)
                replaced = [path for path in there if path.rpartition("/")[2] not in (parts or {})]
                with _as_checkpoint():
                    self._objects.delete(_manifest_first(replaced))
                    self._objects.upload({f"{name}/{file}": folder / file for file in own})
                    self._objects.upload({f"{name}/{MANIFEST}": folder / MANIFEST})
        return manifest

    def clear_parts(self, name: str) -> None:
        self.delete([name])

    def write_part(self, name: str, fill: Callable[[Path], Sequence[str]]) -> Mapping[str, tuple[int, str]]:
        with self._cache.scratch() as scratch:
            part = checkpoints.write_part(scratch, fill)
            with _as_checkpoint():
                self._objects.upload({f"{name}/{file}": scratch / file for file in part})
        return part

    def delete(self, names: Iterable[str]) -> None:
        for name in names:
            self._objects.delete(_manifest_first(self._objects.below(name)))

    def sweep(self, parent: str) -> Sequence[str]:
        left = [folder for folder, files in self._listed(parent).items() if MANIFEST not in files]
        self.delete(left)
        return [self.uri_of(name) for name in left]

    # -- small files

    def files(self, parent: str) -> Sequence[str]:
        return [path for path in self._objects.below(parent) if "/" not in path.removeprefix(f"{parent}/")]

    def read_file(self, name: str) -> bytes:
        return self._objects.read(name)

    def write_file(self, name: str, content: bytes) -> None:
        self._objects.write(name, content)

    def delete_files(self, names: Iterable[str]) -> None:
        self._objects.delete(names)

    def _listed(self, parent: str) -> dict[str, dict[str, Found]]:
        """Folder -> file -> what the listing says, in order."""
        folders: dict[str, dict[str, Found]] = {}
        for path, found in self._objects.below(parent).items():
            folder, _, file = path.rpartition("/")
            if folder.count("/") == parent.count("/") + 1:
                folders.setdefault(folder, {})[file] = found
        return folders

    def _manifest_text(self, name: str) -> bytes:
        try:
            return self._objects.read(f"{name}/{MANIFEST}")
        except NotFound as error:
            raise CheckpointError(f"{self.uri_of(name)} has no {MANIFEST}; it is no complete checkpoint") from error

    def _holds(self, name: str, manifest: Manifest) -> bool:
        """Whether the store has this very folder already."""
        try:
            return self.check(name).digest == manifest.digest
        except CheckpointError:
            return False

    def _fetch(self, name: str, text: bytes, manifest: Manifest, folder: Path) -> None:
        """Every byte of a folder, proven before anybody sees the copy."""
        try:
            self._objects.download({f"{name}/{file}": folder / file for file in manifest.files})
        except NotFound as error:
            raise CheckpointError(f"{error.message}, but {self.uri_of(name)}/{MANIFEST} names it") from error
        (folder / MANIFEST).write_bytes(text)
        try:
            checkpoints.verify_folder(folder, digest=manifest.digest)
        except CheckpointError as error:
            raise type(error)(f"{self.uri_of(name)} is damaged: {error.message}") from error


@contextmanager
def _as_checkpoint() -> Iterator[None]:
    """A store that refuses to take a checkpoint is what a full disk is for a folder."""
    try:
        yield
    except StoreRefused as error:
        raise CheckpointError(f"{error.message}; the checkpoint was not written") from error
    except OSError as error:
        raise StorageError(f"the local copy could not be read: {error}") from error


def _manifest_first(paths: Iterable[str]) -> list[str]:
    return sorted(paths, key=lambda path: (not path.endswith(f"/{MANIFEST}"), path))
