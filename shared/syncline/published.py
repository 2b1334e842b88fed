"""Published weights of a run: how they are called on its storage, and the handles that name them to generators."""

from __future__ import annotations

from pathlib import Path

from syncline.cache import Cache
from syncline.storage import Storage, storage_at
from syncline.v1.checkpoint_pb2 import CheckpointHandle, Probe

FOLDER = "checkpoints"


def name_of(version: int) -> str:
    """What the weights of a version are called on the run's storage."""
    return f"{FOLDER}/v{version:06d}"


def versions(storage: Storage) -> list[int]:
    """Versions that are there in full, oldest first."""
    numbers = (name.rpartition("/v")[2] for name in storage.folders(FOLDER))
    return sorted(int(number) for number in numbers if number.isdecimal())


def handle_of(storage: Storage, version: int) -> CheckpointHandle:
    """The handle that names a published version, from its manifest. Raises CheckpointError."""
    manifest = storage.manifest(name_of(version))
    meta = manifest.meta
    return CheckpointHandle(
        run_id=meta["run_id"],
        version=meta["version"],
        uri=storage.uri_of(name_of(version)),
        manifest_digest=manifest.digest,
        dtype=meta["dtype"],
        probe=Probe(
            token_ids=meta["probe"]["token_ids"],
            log_probs=meta["probe"]["log_probs"],
            tolerance=meta["probe"]["tolerance"],
        ),
    )


def stage(handle: CheckpointHandle, *, cache: Cache) -> Path:
    """A local folder with the verified bytes of a handle; nothing else has been touched yet.

    Raises DigestMismatch or CheckpointError, and StoreUnreachable or StoreRefused where it comes from an object store.
    """
    parent, _, name = handle.uri.rpartition("/")
    return storage_at(parent, cache=cache).stage(name, digest=handle.manifest_digest)
