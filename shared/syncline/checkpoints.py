"""Checkpoint folders that can be trusted: atomic to appear, provable by digest.

A folder is written under a temporary name, every file is fsynced, `manifest.json` with size
and SHA-256 of each file comes last, and one rename makes it visible. Readers accept a folder
only if the manifest's own digest is the one that the handle carries and every byte fits. So a
half-written, truncated or swapped checkpoint is an error before an engine is touched.

Used for published weights (`v000050/`) and for training states (`step-000050/`) alike.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from syncline.durable import fsync
from syncline.errors import CheckpointError, DigestMismatch, Unavailable

MANIFEST = "manifest.json"
FORMAT = 1
_CHUNK_BYTES = 1 << 22


@dataclass(frozen=True, slots=True)
class Manifest:
    """The verified description of a folder."""

    digest: str
    """SHA-256 of manifest.json itself, hexadecimal."""
    meta: Mapping[str, Any]
    """What the writer wanted to say: version, dtype, probe, ..."""
    files: Mapping[str, tuple[int, str]]
    """name -> (bytes, SHA-256)."""


def write_folder(
    target: Path, write: Callable[[Path], Mapping[str, Any]], *, parts: Mapping[str, tuple[int, str]] | None = None
) -> Manifest:
    """Let `write` fill a temporary folder and return its meta data, then make it appear as `target`.

    `parts` are files that others wrote, with bytes and SHA-256: the manifest names them, here or not. An existing
    `target` with the same manifest is left alone (publishing is idempotent); a different one is
    replaced. Raises CheckpointError when the disk is full or refuses.
    """
    temporary = target.parent / f".{target.name}.tmp-{uuid.uuid4().hex[:8]}"
    try:
        temporary.mkdir(parents=True)
        meta = write(temporary)
        names = sorted(path.name for path in temporary.iterdir())
        for name in names:
            (temporary / name).chmod(0o644)  # some writers create 0600; other services read as another user
            fsync(temporary / name)
        own = digests(temporary, [name for name in names if name not in (parts or {})])
        files = {name: {"bytes": size, "sha256": digest} for name, (size, digest) in {**own, **(parts or {})}.items()}
        text = json.dumps({"format": FORMAT, "meta": meta, "files": files}, indent=1, sort_keys=True) + "\n"
        (temporary / MANIFEST).write_text(text, encoding="utf-8")
        fsync(temporary / MANIFEST)
        fsync(temporary)
        _replace(temporary, target)
    except OSError as error:
        raise CheckpointError(f"{target} could not be written: {error}; free space or mend the storage") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return read_manifest(target)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder, itself unverified: see `verify_folder`. Raises CheckpointError, or Unavailable."""
    try:
        text = (folder / MANIFEST).read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} has no {MANIFEST}; it is not a complete checkpoint") from error
    except OSError as error:
        raise unreadable(folder / MANIFEST, error) from error
    return parse_manifest(text, of=str(folder))


def parse_manifest(text: bytes, *, of: str) -> Manifest:
    """The content of a manifest.json; `of` says whose it is. Raises CheckpointError."""
    try:
        data = json.loads(text)
        files = {name: (int(entry["bytes"]), str(entry["sha256"])) for name, entry in data["files"].items()}
        if data["format"] != FORMAT:
            raise CheckpointError(f"{of}: manifest format {data['format']}, this version reads {FORMAT}")
        return Manifest(digest=hashlib.sha256(text).hexdigest(), meta=data["meta"], files=files)
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{of}/{MANIFEST} is damaged ({error!r}); use an older checkpoint") from error


def verify_folder(folder: Path, *, digest: str | None = None) -> Manifest:
    """Check every byte of a folder against its manifest, and the manifest against `digest` if given.

    Raises DigestMismatch naming the first file that differs, with both values, CheckpointError where there is no
    whole folder, and Unavailable when the storage does not let it be read: that says nothing of the bytes.
    """
    manifest = read_manifest(folder)
    if digest is not None and manifest.digest != digest:
        raise DigestMismatch(f"{folder}/{MANIFEST} has digest {manifest.digest}, the handle says {digest}")
    try:
        present = {path.name for path in folder.iterdir()} - {MANIFEST}
        found = digests(folder, sorted(present & set(manifest.files)))
    except OSError as error:
        raise unreadable(folder, error) from error
    if extra := present - set(manifest.files):
        raise DigestMismatch(f"{folder} holds {sorted(extra)}, which the manifest does not name")
    if missing := set(manifest.files) - present:
        raise DigestMismatch(f"{folder} lacks {sorted(missing)}")
    for name, (size, sha256) in found.items():
        if (size, sha256) != manifest.files[name]:
            raise DigestMismatch(
                f"{folder / name} is {size} bytes with SHA-256 {sha256}, "
                f"the manifest says {manifest.files[name][0]} bytes with {manifest.files[name][1]}"
            )
    return manifest


def unreadable(path: Path, error: OSError) -> Unavailable:
    """What to raise when storage does not let something be read that is there: trying again is right, and nothing may
    be thrown away for it."""
    return Unavailable(f"{path} cannot be read at the moment ({error}); mend the storage. Nothing was changed")


def digests(folder: Path, names: Sequence[str]) -> dict[str, tuple[int, str]]:
    """Size and SHA-256 of each file; files in parallel, as hashing releases the interpreter lock."""
    with ThreadPoolExecutor(max_workers=min(8, len(names) or 1)) as pool:
        return dict(zip(names, pool.map(lambda name: _digest(folder / name), names), strict=True))


def write_part(folder: Path, fill: Callable[[Path], Sequence[str]]) -> dict[str, tuple[int, str]]:
    """Let `fill` write files into a folder and return their names; they, as a manifest has them.

    Raises CheckpointError when the disk is full or refuses.
    """
    try:
        return digests(folder, fill(folder))
    except OSError as error:
        raise CheckpointError(f"{folder} could not be written: {error}; free space or mend the storage") from error


def set_aside(folders: Iterable[Path]) -> None:
    """Put folders out of sight; one of the same name that lies there already stays, as it was made first.

    Those that are not there do not matter. Raises CheckpointError when the storage refuses.
    """
    for folder in folders:
        aside = folder.parent / f".{folder.name}.aside"
        if aside.exists():
            delete_folders([folder])
            continue
        try:
            folder.rename(aside)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise CheckpointError(f"{folder} could not be renamed: {error}; mend the storage") from error


def delete_folders(folders: Iterable[Path]) -> None:
    """Delete folders, those that are not there included. Raises CheckpointError when the storage refuses."""
    for folder in folders:
        doomed = folder.parent / f".{folder.name}.del-{uuid.uuid4().hex[:8]}"
        try:
            folder.rename(doomed)  # first out of sight, so that nobody starts to read a folder that is going away
        except FileNotFoundError:
            continue
        except OSError as error:
            raise CheckpointError(f"{folder} could not be deleted: {error}; mend the storage") from error
        shutil.rmtree(doomed, ignore_errors=True)


def _replace(temporary: Path, target: Path) -> None:
    if target.exists():
        if (target / MANIFEST).is_file() and (target / MANIFEST).read_bytes() == (temporary / MANIFEST).read_bytes():
            return
        doomed = target.parent / f".{target.name}.del-{uuid.uuid4().hex[:8]}"
        target.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
    temporary.rename(target)
    fsync(target.parent)


def _digest(path: Path) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return size, digest.hexdigest()
