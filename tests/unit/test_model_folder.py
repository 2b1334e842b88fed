"""What is read of a model folder before an engine touches it, and what is refused before a request reaches one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from services.inference.engine import GroupRequest, require_servable
from services.inference.engines import ENGINES, create_engine
from services.inference.engines.model_folder import architecture, end_of_text_ids, weight_files
from syncline.errors import EngineError, LoadFailed

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "intermediate_size": 128,
    "vocab_size": 128,
    "eos_token_id": 2,
}


def folder(path: Path, **files: object) -> Path:
    path.mkdir(exist_ok=True)
    for name, content in files.items():
        (path / f"{name}.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_a_terser_save_of_a_model_is_the_same_architecture(tmp_path: Path) -> None:
    spelled_out = LLAMA | {"num_key_value_heads": 2, "head_dim": 32, "dtype": "bfloat16", "transformers_version": "5"}

    terse = architecture(folder(tmp_path / "terse", config=LLAMA))
    assert terse == architecture(folder(tmp_path / "full", config=spelled_out))
    assert terse != architecture(folder(tmp_path / "deeper", config=LLAMA | {"num_hidden_layers": 3}))


def test_a_field_set_aside_does_not_make_another_architecture(tmp_path: Path) -> None:
    untied = folder(tmp_path / "untied", config=LLAMA)
    tied = folder(tmp_path / "tied", config=LLAMA | {"tie_word_embeddings": True})

    assert architecture(untied) != architecture(tied)
    assert architecture(untied, ["tie_word_embeddings"]) == architecture(tied, ["tie_word_embeddings"])


@pytest.mark.parametrize("config", ['{"model_type": "no-such-model"}', "{", "[]"])
def test_a_config_that_cannot_be_used_is_refused(tmp_path: Path, config: str) -> None:
    with pytest.raises(LoadFailed):
        architecture(folder(tmp_path, config=config))


def test_the_generation_config_names_the_end_of_text_before_the_config_does(tmp_path: Path) -> None:
    assert end_of_text_ids(folder(tmp_path, config=LLAMA)) == (2,)
    assert end_of_text_ids(folder(tmp_path, generation_config={"eos_token_id": [7, 8]})) == (7, 8)
    assert end_of_text_ids(folder(tmp_path, generation_config={}, config={})) == ()


def test_every_shard_of_the_index_must_be_there(tmp_path: Path) -> None:
    folder(tmp_path, **{"model.safetensors.index": {"weight_map": {"x": "two", "y": "one", "z": "two"}}})
    (tmp_path / "one").touch()

    with pytest.raises(LoadFailed, match="lacks two"):
        weight_files(tmp_path)
    (tmp_path / "two").touch()
    assert weight_files(tmp_path) == (tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize(
    "wrong",
    [
        {"prompt_token_ids": ()},
        {"seeds": ()},
        {"seeds": (-1,)},
        {"seeds": (2**63,)},
        {"max_tokens": 0},
        {"temperature": -0.1},
        {"top_p": 0.0},
        {"top_p": 1.1},
    ],
)
def test_a_bad_request_is_refused(wrong: dict[str, Any]) -> None:
    right: dict[str, Any] = {"prompt_token_ids": (1,), "seeds": (1,), "max_tokens": 1}
    GroupRequest(**right)

    with pytest.raises(EngineError):
        GroupRequest(**right | wrong)


def test_a_prompt_must_fit_the_model() -> None:
    require_servable([0, 9], vocabulary_size=10, context_length=3)

    with pytest.raises(EngineError, match="no room"):
        require_servable([0, 9], vocabulary_size=10, context_length=2)
    with pytest.raises(EngineError, match="vocabulary"):
        require_servable([0, 10], vocabulary_size=10, context_length=3)


def test_an_unknown_engine_or_option_is_named() -> None:
    with pytest.raises(EngineError, match="transformers, vllm"):
        create_engine("llama.cpp")
    for name in ENGINES:
        with pytest.raises(EngineError, match="speed"):
            create_engine(name, {"speed": 11})


def test_the_engines_package_loads_no_engine() -> None:
    code = "import sys, services.inference.engines; print(sorted({'torch', 'vllm', 'transformers'} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)

    assert shown.stdout.strip() == "[]"
