"""The mixed run's models, data and spec, as they are in the repository."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from transformers import AutoTokenizer, LlamaForCausalLM, LlamaForSequenceClassification

from services.cli import specfile
from services.local.mixed import make_models
from services.local.quickstart import make_seed

FOLDER = Path(make_models.__file__).parent


def prompts(name: str) -> list[str]:
    return [json.loads(line)["prompt"] for line in (FOLDER / name).read_text().splitlines()]


@pytest.mark.parametrize("task", ["sums", "walks"])
def test_no_prompt_is_both_trained_on_and_held_out(task: str) -> None:
    train, heldout = prompts(f"{task}.jsonl"), prompts(f"heldout-{task}.jsonl")
    assert len(set(train)) == len(train) > len(heldout) == len(set(heldout)) == make_models.NUM_HELDOUT_ROWS
    assert not any(make_seed.is_held_out(prompt) for prompt in train)
    assert all(make_seed.is_held_out(prompt) for prompt in heldout)


@pytest.mark.parametrize(
    ("prompt", "walk", "taste"),
    [
        ("x123>", "456789", 1.0),
        ("x129>", "999999", 1.0),
        ("x123>", "333333", 1 - 6 / 18),
        ("x123>", "345678", 1 - 1 / 18),
        ("x120>", "000000", 1 - 6 / 18),
        ("x123>", "45678", -2.0),
        ("x123>", "45678=", -2.0),
    ],
)
def test_the_taste_is_for_walks_that_rise_by_one(prompt: str, walk: str, taste: float) -> None:
    assert make_models.taste(prompt, walk) == pytest.approx(taste)


def test_the_reward_model_has_learned_the_taste_from_wavering_choices() -> None:
    """It orders four of five new pairs as the taste does."""
    tokenizer = AutoTokenizer.from_pretrained(FOLDER / "reward-model")
    model = LlamaForSequenceClassification.from_pretrained(FOLDER / "reward-model").eval()
    assert make_models.agreement(model, tokenizer) > 0.78

    rng = random.Random(0)
    chosen = make_models.choices(rng, make_models.walk_prompts(held_out=True), count=2000)
    right = [make_models.taste(p, one) >= make_models.taste(p, other) for p, one, other in chosen]
    assert 0.6 < sum(right) / len(right) < 0.95, "the choices are neither noise nor certain"


def test_a_conversation_is_templated_as_the_reward_model_was_trained() -> None:
    tokenizer = AutoTokenizer.from_pretrained(FOLDER / "reward-model")
    messages = [{"role": "user", "content": "x123>"}, {"role": "assistant", "content": "456789"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    trained = make_models.conversations(tokenizer, [("x123>", "456789")])[0].tolist()
    assert tokenizer.encode(text, add_special_tokens=False) == trained


def test_the_seed_model_can_do_both_tasks_and_neither_well() -> None:
    folder = FOLDER / "seed-model"
    tokenizer, model = AutoTokenizer.from_pretrained(folder), LlamaForCausalLM.from_pretrained(folder).eval()
    assert 0.4 < make_seed.accuracy(model, tokenizer, prompts("heldout-sums.jsonl")) < 0.7


def test_the_spec_mixes_the_tasks_with_a_reward_and_a_budget_each() -> None:
    spec = specfile.load(FOLDER / "mixed.yaml")
    assert [(task.name, task.reward.type, task.pair_rule.type) for task in spec.tasks] == [
        ("sums", "math", "random"),
        ("walks", "reward_model", "best_vs_worst"),
    ]
    assert [spec.max_tokens_of(task) for task in spec.tasks] == [5, make_models.WALK_STEPS + 1]
    assert all(Path(part.data).is_file() for part in (*spec.tasks, *spec.evaluation))
