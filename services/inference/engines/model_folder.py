"""What the engines need to know of a Hugging Face model folder before they touch a tensor."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from syncline.errors import LoadFailed

# These differ between two saves of one model, or the engine takes them from elsewhere.
_NOT_ARCHITECTURE = frozenset(
    {"transformers_version", "_name_or_path", "dtype", "bos_token_id", "eos_token_id", "pad_token_id"}
)


def architecture(model_dir: Path, aside: Sequence[str] = ()) -> str:
    """A text that is equal for two folders when an engine built for one can take the weights of the other.

    `aside` names the fields of the config that do not matter to this engine.

    config.json is read through transformers, which fills in what an older or terser save left out: else the first
    checkpoint of a learner would look like another model than the seed model that it trained.
    """
    from transformers import AutoConfig  # slow to import, and not needed to make an engine

    if not (model_dir / "config.json").is_file():
        raise LoadFailed(f"{model_dir} holds no config.json")
    try:
        config = AutoConfig.from_pretrained(model_dir, local_files_only=True).to_dict()
    except (OSError, ValueError, KeyError) as error:
        raise LoadFailed(f"{model_dir / 'config.json'} cannot be used: {error}") from error
    return json.dumps(
        {key: value for key, value in config.items() if key not in _NOT_ARCHITECTURE.union(aside)},
        sort_keys=True,
        default=str,
    )


def end_of_text_ids(model_dir: Path) -> tuple[int, ...]:
    """The token ids that end a completion: of generation_config.json when it names any, else of config.json."""
    for name in ("generation_config.json", "config.json"):
        ids = (_read_json(model_dir / name) or {}).get("eos_token_id")
        if ids is not None:
            return tuple(ids) if isinstance(ids, list) else (ids,)
    return ()


def weight_files(model_dir: Path) -> tuple[Path, ...]:
    """The safetensors files that make up the model. Raises `LoadFailed` when one is missing."""
    index = _read_json(model_dir / "model.safetensors.index.json")
    names = sorted(set(index["weight_map"].values())) if index else ["model.safetensors"]
    files = tuple(model_dir / name for name in names)
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise LoadFailed(f"{model_dir} lacks {', '.join(missing)}")
    return files


def copied_config(model_dir: Path) -> TemporaryDirectory[str]:
    """A folder of its own with the folder's JSON files, which is deleted with the last reference to it."""
    copy = TemporaryDirectory(prefix="syncline-config-")
    try:
        for file in model_dir.glob("*.json"):
            shutil.copy(file, copy.name)
    except OSError as error:
        raise LoadFailed(f"{model_dir} cannot be read: {error}") from error
    return copy


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise LoadFailed(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise LoadFailed(f"{path} holds no JSON object")
    return content
