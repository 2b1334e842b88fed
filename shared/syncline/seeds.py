"""Seed models, wherever they lie: a folder, s3://bucket/prefix, or hf://org/name@revision of the Hugging Face hub.

Remote ones come as a local copy: the description (configuration, tokenizer, templates), and the weights where they are
asked for. Of weights only safetensors are ever fetched, never pickles.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from syncline import checkpoints, hub, objects
from syncline.cache import Cache
from syncline.errors import NotFound
from syncline.objects import Found, Objects

DESCRIPTION = ("*.json", "*.jinja", "*.txt", "*.model")
WEIGHTS = "*.safetensors"
_COPIES = 4
"""Models that one process works with at a time: a learner with one, a coordinator with those of a few runs."""


@dataclass(frozen=True, slots=True)
class Seed:
    """A seed model on the local disk."""

    path: str
    """Where it comes from, for everybody else: of the hub always one commit."""
    folder: Path
    files: frozenset[str]
    """All that it has where it comes from, weights included, whether they were fetched or not."""


def fetch(path: str, *, cache: Cache, weights: bool) -> Seed:
    """The model at `path`, with its `weights` or without.

    Raises NotFound for a prefix or a repository without a model, StoreUnreachable, and StoreRefused; CheckpointError
    for a published checkpoint whose bytes are not those of its manifest. A folder is taken as it is.
    """
    wanted = (*DESCRIPTION, WEIGHTS) if weights else DESCRIPTION
    if path.startswith(objects.SCHEME):
        return _from_bucket(path, wanted, cache=cache, whole=weights)
    if path.startswith(hub.SCHEME):
        pinned, folder, files = hub.snapshot(path, wanted)
        return Seed(pinned, folder, files)
    folder = Path(path)
    return Seed(path, folder, frozenset(file.name for file in folder.iterdir()) if folder.is_dir() else frozenset())


def _from_bucket(url: str, wanted: Iterable[str], *, cache: Cache, whole: bool) -> Seed:
    source = Objects(url)
    there = {name: found for name, found in source.below().items() if "/" not in name}
    if "config.json" not in there:
        raise NotFound(f"{url} has no config.json; is it the folder of a model?")
    some = {name: found for name, found in there.items() if any(fnmatch(name, pattern) for pattern in wanted)}

    def fill(folder: Path) -> None:
        source.download({name: folder / name for name in some})
        if whole and checkpoints.MANIFEST in some and set(there) == set(some):
            checkpoints.verify_folder(folder)

    return Seed(url, cache.folder("models", _key(url, some), fill, keep=_COPIES), frozenset(there))


def _key(url: str, files: dict[str, Found]) -> str:
    """Another one whenever an object changes."""
    content = [url, sorted((name, found.num_bytes, found.etag) for name, found in files.items())]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
