"""The quickstart's model, data and run spec, as they are in the repository."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from services.cli import specfile
from services.local.quickstart import make_seed
from syncline.algorithmspec import DPO

FOLDER = Path(make_seed.__file__).parent
SEED_MODEL = FOLDER / "seed-model"


def rows(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (FOLDER / name).read_text().splitlines()]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(SEED_MODEL)


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(SEED_MODEL).eval()


def test_no_prompt_is_both_trained_on_and_held_out() -> None:
    train = [row["prompt"] for row in rows("train.jsonl")]
    heldout = [row["prompt"] for row in rows("heldout.jsonl")]

    assert not set(train) & set(heldout)
    assert not any(make_seed.is_held_out(prompt) for prompt in train)
    assert all(make_seed.is_held_out(prompt) for prompt in heldout)


def test_the_seed_model_is_taught_no_held_out_prompt() -> None:
    lessons = make_seed.all_prompts(held_out=False)

    assert not set(lessons) & {row["prompt"] for row in rows("heldout.jsonl")}


@pytest.mark.parametrize(
    ("name", "count"), [("train.jsonl", make_seed.NUM_TRAIN_ROWS), ("heldout.jsonl", make_seed.NUM_HELDOUT_ROWS)]
)
def test_every_row_is_a_different_sum_with_its_right_answer(name: str, count: int) -> None:
    given = rows(name)

    assert len(given) == len({row["prompt"] for row in given}) == count
    for row in given:
        assert set(row) == {"prompt", "answer"}
        left, right = row["prompt"].removesuffix("=").split("+")
        assert (len(left), len(right), row["prompt"][-1]) == (2, 2, "=")
        assert row["answer"] == str(int(left) + int(right))


def test_text_survives_the_tokenizer_one_token_a_character(tokenizer: PreTrainedTokenizerBase) -> None:
    for text in ("37+48=", "85", "(x-1)/2 \n", make_seed.CHARACTERS):
        ids = tokenizer.encode(text)

        assert len(ids) == len(text)
        assert tokenizer.decode(ids) == text
    assert tokenizer.decode([*tokenizer.encode("85"), tokenizer.eos_token_id], skip_special_tokens=True) == "85"


def test_model_and_tokenizer_agree_on_the_vocabulary_and_the_stop_token(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    assert model.config.vocab_size == len(tokenizer) == 32
    assert model.generation_config is not None
    assert model.generation_config.eos_token_id == model.config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == model.config.pad_token_id == tokenizer.pad_token_id


@torch.no_grad()
def test_the_seed_model_is_right_about_half_of_the_time(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    accuracy = make_seed.accuracy(model, tokenizer, [row["prompt"] for row in rows("heldout.jsonl")])

    assert 0.45 <= accuracy <= 0.55


def test_the_run_spec_is_valid_and_names_the_files_beside_it() -> None:
    spec = specfile.load(FOLDER / "quickstart.yaml")

    assert isinstance(spec.algorithm, DPO)
    assert Path(spec.model.path) == SEED_MODEL
    assert Path(spec.tasks[0].data) == FOLDER / "train.jsonl"
    assert Path(spec.evaluation[0].data) == FOLDER / "heldout.jsonl"
    assert spec.max_tokens_of(spec.tasks[0]) >= make_seed.MAX_ANSWER_TOKENS
