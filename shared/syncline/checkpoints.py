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
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from syncline.errors import CheckpointError, DigestMismatch, Unavailable
from syncline.v1.checkpoint_pb2 import CheckpointHandle, Probe

MANIFEST = "manifest.json"
FORMAT = 1
ASIDE = "aside"
"""Last part of the names that `set_aside` gives."""
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


def version_folder(run_dir: Path, version: int) -> Path:
    """Where the weights of a version are published."""
    return run_dir / "checkpoints" / f"v{version:06d}"


def write_folder(target: Path, write: Callable[[Path], Mapping[str, Any]]) -> Manifest:
    """Let `write` fill a temporary folder and return its meta data, then make it appear as `target`.

    An existing `target` with the same manifest is left alone (publishing is idempotent); a
    different one is replaced. Raises CheckpointError when the disk is full or refuses.
    """
    temporary = target.parent / f".{target.name}.tmp-{uuid.uuid4().hex[:8]}"
    try:
        temporary.mkdir(parents=True)
        meta = write(temporary)
        names = sorted(path.name for path in temporary.iterdir())
        for name in names:
            (temporary / name).chmod(0o644)  # some writers create 0600; other services read as another user
            _fsync(temporary / name)
        files = {name: {"bytes": size, "sha256": digest} for name, (size, digest) in _digests(temporary, names).items()}
        text = json.dumps({"format": FORMAT, "meta": meta, "files": files}, indent=1, sort_keys=True) + "\n"
        (temporary / MANIFEST).write_text(text, encoding="utf-8")
        _fsync(temporary / MANIFEST)
        _fsync(temporary)
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
        raise CheckpointError(f"{folder} has no {MANIFEST}; it is no complete checkpoint") from error
    except OSError as error:
        raise unreadable(folder / MANIFEST, error) from error
    try:
        data = json.loads(text)
        files = {name: (int(entry["bytes"]), str(entry["sha256"])) for name, entry in data["files"].items()}
        if data["format"] != FORMAT:
            raise CheckpointError(f"{folder}: manifest format {data['format']}, this version reads {FORMAT}")
        return Manifest(digest=hashlib.sha256(text).hexdigest(), meta=data["meta"], files=files)
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder}/{MANIFEST} is damaged ({error!r}); use an older checkpoint") from error


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
        digests = _digests(folder, sorted(present & set(manifest.files)))
    except OSError as error:
        raise unreadable(folder, error) from error
    if extra := present - set(manifest.files):
        raise DigestMismatch(f"{folder} holds {sorted(extra)}, which the manifest does not name")
    if missing := set(manifest.files) - present:
        raise DigestMismatch(f"{folder} lacks {sorted(missing)}")
    for name, found in digests.items():
        if found != manifest.files[name]:
            raise DigestMismatch(
                f"{folder / name} is {found[0]} bytes with SHA-256 {found[1]}, "
                f"the manifest says {manifest.files[name][0]} bytes with {manifest.files[name][1]}"
            )
    return manifest


def unreadable(path: Path, error: OSError) -> Unavailable:
    """What to raise when storage does not let something be read that is there: trying again is right, and nothing may
    be thrown away for it."""
    return Unavailable(f"{path} cannot be read at the moment ({error}); mend the storage. Nothing was changed")


def handle_of(folder: Path) -> CheckpointHandle:
    """The handle that names a published folder, from its manifest."""
    manifest = read_manifest(folder)
    meta = manifest.meta
    return CheckpointHandle(
        run_id=meta["run_id"],
        version=meta["version"],
        uri=folder.resolve().as_uri(),
        manifest_digest=manifest.digest,
        dtype=meta["dtype"],
        probe=Probe(
            token_ids=meta["probe"]["token_ids"],
            log_probs=meta["probe"]["log_probs"],
            tolerance=meta["probe"]["tolerance"],
        ),
    )


def stage(handle: CheckpointHandle) -> Path:
    """A local folder with the verified bytes of a handle; nothing else has been touched yet.

    Raises DigestMismatch, CheckpointError or Unavailable.
    """
    scheme, _, path = handle.uri.partition("://")
    if scheme != "file":
        raise CheckpointError(f"cannot fetch {handle.uri}: only file:// URIs on shared storage are supported")
    folder = Path(path)
    verify_folder(folder, digest=handle.manifest_digest)
    return folder


def published(run_dir: Path) -> list[int]:
    """Versions with a complete folder, oldest first. Raises Unavailable when the storage cannot tell."""
    return numbered(run_dir / "checkpoints", "v")


def numbered(root: Path, prefix: str) -> list[int]:
    """Numbers of the complete folders PREFIX000050 below `root`, smallest first.

    Raises Unavailable when the storage cannot tell: none is not the same as none that can be seen.
    """
    try:
        names = [path.name for path in root.iterdir() if (path / MANIFEST).is_file()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise unreadable(root, error) from error
    numbers = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    return sorted(int(number) for number in numbers if number.isdecimal())


def prune(folders: Iterable[Path], *, keep: int, in_use: Iterable[Path] = ()) -> list[Path]:
    """Delete all but the newest `keep` of `folders` (oldest first) and those in use; returns what went.

    Raises CheckpointError when the storage refuses.
    """
    protected = set(in_use)
    ordered = list(folders)
    gone = [folder for folder in ordered[: max(0, len(ordered) - keep)] if folder not in protected]
    for folder in gone:
        doomed = folder.parent / f".{folder.name}.del-{uuid.uuid4().hex[:8]}"
        try:
            folder.rename(doomed)  # first out of sight, so that nobody starts to read a folder that is going away
        except OSError as error:
            raise CheckpointError(f"{folder} could not be deleted: {error}; mend the storage") from error
        _delete(doomed)
    return gone


def set_aside(paths: Iterable[Path]) -> None:
    """Put files or folders out of sight, until `sweep` is told to delete them; what lies there already stays, as it
    was made first. Raises CheckpointError when the storage refuses."""
    for path in paths:
        aside = path.parent / f".{path.name}.{ASIDE}"
        if aside.exists():
            prune([path], keep=0)
            continue
        try:
            path.rename(aside)
        except OSError as error:
            raise CheckpointError(f"{path} could not be renamed: {error}; mend the storage") from error


def write_text(path: Path, text: str) -> None:
    """Write a small file atomically and durably."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically and durably. Raises OSError, and leaves what was there before."""
    temporary = path.parent / f".{path.name}.tmp-{uuid.uuid4().hex[:8]}"
    try:
        temporary.write_bytes(content)
        _fsync(temporary)
        os.replace(temporary, path)
        _fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sweep(folder: Path, kinds: Iterable[str] = ("tmp-*", "del-*")) -> list[Path]:
    """Delete what writers left in `folder` that were killed: half-written and half-deleted things; returns them.

    Only for a folder that nobody else writes to at the moment. With kinds=[ASIDE] what was set aside goes.
    """
    left = [path for kind in kinds for path in sorted(folder.glob(f".*.{kind}"))]
    for path in left:
        _delete(path)
    return left


def _delete(path: Path) -> None:
    """Delete a file or a folder, as far as the storage lets it go: what stays is swept later."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _replace(temporary: Path, target: Path) -> None:
    if target.exists():
        if (target / MANIFEST).is_file() and (target / MANIFEST).read_bytes() == (temporary / MANIFEST).read_bytes():
            return
        doomed = target.parent / f".{target.name}.del-{uuid.uuid4().hex[:8]}"
        target.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
    temporary.rename(target)
    _fsync(target.parent)


def _digests(folder: Path, names: list[str]) -> dict[str, tuple[int, str]]:
    """Size and SHA-256 of each file; files in parallel, as hashing releases the interpreter lock."""
    with ThreadPoolExecutor(max_workers=min(8, len(names) or 1)) as pool:
        return dict(zip(names, pool.map(lambda name: _digest(folder / name), names), strict=True))


def _digest(path: Path) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return size, digest.hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
