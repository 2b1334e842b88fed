"""Where what a run spec names lies, and whether a run may read it: under a configured root, or a permitted URL."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from services.coordinator.settings import CoordinatorSettings
from syncline import hub, objects, seeds
from syncline.cache import Cache
from syncline.errors import CheckpointError, FieldProblem, InvalidSpec, NotFound, StoreRefused
from syncline.objects import Objects
from syncline.seeds import Seed
from syncline.storage import storage_at

FindCheckpoint = Callable[[str, str], str]
"""Run id and "final", "best" or "v<version>" -> path or URL of the folder. Raises NotFound, saying what there is."""

_FIELD = "model.path"
_FILES_KEPT = 4  # prompts are in memory once they are read, and rollouts are read from an open file


@dataclass(frozen=True, slots=True)
class Located:
    """A file on the local disk."""

    path: Path
    origin: str
    """Its path or URL, as a resumed run finds it again."""


def seed_model(text: str, settings: CoordinatorSettings, cache: Cache, find_checkpoint: FindCheckpoint) -> Seed:
    """The seed model without its weights: under a root, at a URL, or another run's checkpoint, as in run://RUN/final,
    which must be whole.

    Raises InvalidSpec, and StoreUnreachable.
    """
    if text.startswith("run://"):
        run_id, _, which = text.removeprefix("run://").partition("/")
        try:
            text = find_checkpoint(run_id, which or "final")
            parent, _, name = text.rpartition("/")
            storage_at(parent, cache=cache).check(name)
        except (NotFound, CheckpointError) as error:
            raise _refused(_FIELD, error.message, "run://RUN/final, run://RUN/best or run://RUN/v50") from error
    if "://" in text:
        _permit(text, settings, field=_FIELD, schemes=(objects.SCHEME, hub.SCHEME))
        path = text
    else:
        roots = (settings.model_root, settings.run_root)  # a resumed run's seed may be a checkpoint of another run
        inside = [root for root in roots if (root.resolve() / text).resolve().is_relative_to(root.resolve())]
        path = str(resolve(text, inside[0] if inside else settings.model_root, field=_FIELD))
    try:
        return seeds.fetch(path, cache=cache, weights=False)
    except (NotFound, StoreRefused) as error:
        raise _refused(_FIELD, error.message, "a model that exists and that the coordinator may read") from error


def data_file(text: str, settings: CoordinatorSettings, cache: Cache, *, field: str) -> Located:
    """A file of prompts or rollouts: under the data root, or a copy of what an s3:// URL names.

    Whether a path exists is for its reader to say. Raises InvalidSpec, and StoreUnreachable.
    """
    if "://" not in text:
        path = resolve(text, settings.data_root, field=field)
        return Located(path, str(path))
    _permit(text, settings, field=field, schemes=(objects.SCHEME,))
    source, name = Objects(text), text.rpartition("/")[2]
    try:
        found = source.find()
        key = hashlib.sha256(f"{text} {found.etag} {found.num_bytes}".encode()).hexdigest()
        folder = cache.folder("data", key, lambda folder: source.download({"": folder / name}), keep=_FILES_KEPT)
    except (NotFound, StoreRefused) as error:
        raise _refused(field, error.message, "an object that exists and that the coordinator may read") from error
    return Located(folder / name, text)


def resolve(text: str, root: Path, *, field: str) -> Path:
    """The absolute path that `text` means: under `root`, symbolic links resolved. Raises InvalidSpec otherwise."""
    base = root.resolve()
    path = (base / text).resolve()
    if not path.is_relative_to(base):
        raise _refused(field, f"{path} lies outside the configured root", f"a path under {base}")
    return path


def permitted(url: str, prefixes: tuple[str, ...]) -> bool:
    """Whether `url` is one of the prefixes or lies below it, whole names compared: s3://b/x is not below s3://b/xy."""
    scheme, _, path = url.partition("://")
    if any(part in (".", "..") for part in path.split("/")):
        return False
    parts = (path.partition("@")[0] if scheme == "hf" else path).split("/")
    for prefix in prefixes:
        allowed_scheme, _, allowed = prefix.partition("://")
        names = [name for name in allowed.split("/") if name]
        if scheme == allowed_scheme and parts[: len(names)] == names:
            return True
    return False


def _permit(url: str, settings: CoordinatorSettings, *, field: str, schemes: tuple[str, ...]) -> None:
    """Nothing remote is read unless the installation says so: the one who submits a run would else read whatever the
    coordinator's own credentials open, or make it talk to the world."""
    here = "a path under the configured root"
    if not url.startswith(schemes):
        raise _refused(field, f"{url} is not supported", " or ".join((here, *(f"{one}..." for one in schemes))))
    own = (settings.checkpoint_store,) if settings.checkpoint_store and field == _FIELD else ()
    prefixes = tuple(one for one in (*settings.prefixes, *own) if one.startswith(schemes))
    if not permitted(url, prefixes):
        problem = f"{url} is not below a URL that this installation lets runs read (SYNCLINE_REMOTE_PREFIXES)"
        raise _refused(field, problem, " or ".join((here, *(f"a URL below {one}" for one in prefixes))))


def _refused(field: str, problem: str, allowed: str) -> InvalidSpec:
    return InvalidSpec([FieldProblem(field, problem, allowed)])
