"""What the coordinator knows of the seed model: its context length and its tokenizer. Never its weights."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from services.coordinator.work.prompts import Encode
from syncline.data_rows import Prompt
from syncline.errors import FieldProblem, InvalidSpec
from syncline.rollout_rows import text_of
from syncline.seeds import Seed

Decode = Callable[[Sequence[Sequence[int]]], list[str]]
"""Token ids of completions -> their texts."""

_IMPORTING = threading.Lock()  # transformers fills itself at first use, and two threads at once find it half full

_FIELD = "model.path"
_ALLOWED = "a folder in Hugging Face layout: config.json, tokenizer files and *.safetensors"


def check(seed: Seed) -> int:
    """Context length in tokens of a seed model. Raises InvalidSpec naming what is missing."""
    where, config_file = seed.path, seed.folder / "config.json"
    if not seed.folder.is_dir():
        raise _invalid(f"{where} is not a folder")
    if not config_file.is_file():
        raise _invalid(f"{where} has no config.json")
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise _invalid(f"config.json of {where} is not JSON ({error})") from error
    if not any(name.endswith(".safetensors") for name in seed.files):
        raise _invalid(f"{where} has no *.safetensors (pickled weights are never read)")
    if not seed.files & {"tokenizer.json", "tokenizer_config.json"}:
        raise _invalid(f"{where} has no tokenizer.json")
    context = config.get("max_position_embeddings")
    if not isinstance(context, int) or context < 2:
        raise _invalid(f"config.json of {where} has no max_position_embeddings")
    return context


def encoder(folder: Path) -> Encode:
    """The model's tokenizer as a function. Loads transformers' tokenizers, no model code and no torch."""
    tokenizer = _tokenizer(folder)

    def encode(prompt: Prompt) -> tuple[tuple[int, ...], str]:
        if isinstance(prompt, str):
            return tuple(tokenizer(prompt)["input_ids"]), prompt
        text = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        # The template writes the special tokens itself; adding them again would double the first one.
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        return tuple(ids), text_of(prompt)

    return encode


def decoder(folder: Path) -> Decode:
    """The way back, as generators take it: completions to their texts without special tokens."""
    tokenizer = _tokenizer(folder)

    def decode(completions: Sequence[Sequence[int]]) -> list[str]:
        options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        return [tokenizer.decode(list(token_ids), **options) for token_ids in completions]

    return decode


def vocabulary(folder: Path) -> int:
    """Tokens that the model can embed: ids are below this."""
    size = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("vocab_size")
    return size if isinstance(size, int) else len(_tokenizer(folder))


def _tokenizer(folder: Path) -> Any:
    with _IMPORTING:
        from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def has_chat_template(folder: Path) -> bool:
    """Whether prompts may be messages."""
    if (folder / "chat_template.jinja").is_file():
        return True
    config = folder / "tokenizer_config.json"
    return config.is_file() and "chat_template" in json.loads(config.read_text(encoding="utf-8"))


def _invalid(problem: str) -> InvalidSpec:
    return InvalidSpec([FieldProblem(_FIELD, problem, _ALLOWED)])
