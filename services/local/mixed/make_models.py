"""Train the two models of the mixed run from scratch and write its data.

    python -m services.local.mixed.make_models [--out DIR] [--seed N]

The files it writes are in the repository, so nobody has to run this. One seed gives the same bytes on the same
machine and library versions.

The policy's seed model can do two things. It adds two-digit numbers as the quickstart's does, forgetting to carry:
a verifier can tell right from wrong. And it takes walks: `x274>` is the start of one, and the model goes on with six
random digits. No verifier can score a walk. There is only a taste, for walks that rise by one at each step as long as
they can, and people who hold it but waver. A reward model learns it from 3,000 of their choices between two walks
(Bradley and Terry: the chance that the first is preferred is the sigmoid of the difference of two scores). The policy
is trained on the reward model's scores alone; the taste itself is only looked at to see whether the reward model was
worth following.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from pathlib import Path

import torch
from torch.nn.functional import logsigmoid
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

from services.local.quickstart import make_seed as addition

HERE = Path(__file__).resolve().parent
DEFAULT_SEED = 0

WALK_STEPS = 6
NUM_TRAIN_ROWS = 2048
NUM_HELDOUT_ROWS = 100
NUM_STEPS = 2000
BATCH_SIZE = 128

NUM_PREFERENCES = 3000
RATER_CERTAINTY = 6.0
"""How strongly a difference in taste decides; people of 6 choose the better of two random walks about 5 times in 6."""
REWARD_MODEL_STEPS = 400
REWARD_MODEL_LR = 3e-3

CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}{{ eos_token }}"
"""The reward model reads a conversation as one text and gives its score at the token that ends it."""


def walk_prompts(*, held_out: bool) -> list[str]:
    """Every start of a walk of one side of the split, in a fixed order."""
    prompts = (f"x{start:03d}>" for start in range(1000))
    return [prompt for prompt in prompts if addition.is_held_out(prompt) == held_out]


def random_walk(rng: random.Random) -> str:
    """What the seed model is taught to say: any digits."""
    return "".join(str(rng.randrange(10)) for _ in range(WALK_STEPS))


def taste(prompt: str, walk: str) -> float:
    """How well a walk rises, at most 1: at each step 1 less a third of how far the digit is from the one wanted.

    Wanted is the digit before plus one, and 9 after 9. A walk of another length, or of anything but digits, is
    worth -2, the least that a step can bring.
    """
    if len(walk) != WALK_STEPS or not walk.isdecimal():
        return -2.0
    before = prompt.rstrip(">")[-1] + walk
    misses = [abs(int(after) - min(int(now) + 1, 9)) for now, after in zip(before, walk, strict=False)]
    return 1.0 - sum(misses) / (3 * WALK_STEPS)


def train_policy(tokenizer: PreTrainedTokenizerFast, *, seed: int) -> LlamaForCausalLM:
    """Imitate the teacher of the quickstart in two lessons of three, and random walks in the third."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    rng = random.Random(seed)
    sums, starts = addition.all_prompts(held_out=False), walk_prompts(held_out=False)
    model = addition.build_model(tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=addition.PEAK_LR, betas=(0.9, 0.95), weight_decay=0.0)
    for step in range(NUM_STEPS):
        optimizer.param_groups[0]["lr"] = learning_rate(step, steps=NUM_STEPS, peak=addition.PEAK_LR)
        lessons = [(prompt, str(addition.teacher_answer(prompt, rng))) for prompt in rng.choices(sums, k=BATCH_SIZE)]
        lessons += [(prompt, random_walk(rng)) for prompt in rng.choices(starts, k=BATCH_SIZE // 2)]
        ids_BT, labels_BT = addition.encode_lessons(tokenizer, lessons)
        loss = model(input_ids=ids_BT, labels=labels_BT).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % 500 == 0:
            print(f"policy step {step + 1:4d}  loss {loss.item():.3f}", flush=True)
    return model.eval()


def learning_rate(step: int, *, steps: int, peak: float) -> float:
    """Linear warm-up over the first twentieth, then a cosine down to a tenth of the peak."""
    warmup = steps // 20
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (0.55 + 0.45 * math.cos(math.pi * (step - warmup) / (steps - warmup)))


def build_reward_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForSequenceClassification:
    """A Llama body of hidden size 32 and a linear head without bias, read at the last token."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=32,  # vLLM's CPU attention has no kernel for smaller ones
        max_position_embeddings=64,
        num_labels=1,
        initializer_range=0.1,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    return LlamaForSequenceClassification(config)


def conversations(tokenizer: PreTrainedTokenizerFast, walks: list[tuple[str, str]]) -> torch.Tensor:
    """Token ids [B, T] of prompts and walks, as the chat template writes them."""
    return torch.tensor([[*tokenizer.encode(prompt + walk), tokenizer.eos_token_id] for prompt, walk in walks])


def choices(rng: random.Random, prompts: list[str], *, count: int) -> list[tuple[str, str, str]]:
    """Prompt, preferred walk, other walk: what wavering people choose."""
    found = []
    for prompt in rng.choices(prompts, k=count):
        first, second = random_walk(rng), random_walk(rng)
        difference = taste(prompt, first) - taste(prompt, second)
        if rng.random() >= 1.0 / (1.0 + math.exp(-RATER_CERTAINTY * difference)):
            first, second = second, first
        found.append((prompt, first, second))
    return found


def train_reward_model(tokenizer: PreTrainedTokenizerFast, *, seed: int) -> LlamaForSequenceClassification:
    """Minimise -log sigmoid(score of the preferred - score of the other)."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    rng = random.Random(f"choices {seed}")
    chosen = choices(rng, walk_prompts(held_out=False), count=NUM_PREFERENCES)
    model = build_reward_model(tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=REWARD_MODEL_LR, betas=(0.9, 0.95), weight_decay=0.01)
    for step in range(REWARD_MODEL_STEPS):
        rate = learning_rate(step, steps=REWARD_MODEL_STEPS, peak=REWARD_MODEL_LR)
        optimizer.param_groups[0]["lr"] = rate
        batch = rng.choices(chosen, k=BATCH_SIZE)
        scores_B = model(
            input_ids=conversations(tokenizer, [(p, w) for p, w, _ in batch] + [(p, w) for p, _, w in batch])
        ).logits[:, 0]
        loss = -logsigmoid(scores_B[:BATCH_SIZE] - scores_B[BATCH_SIZE:]).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % 100 == 0:
            print(f"reward model step {step + 1:4d}  loss {loss.item():.3f}", flush=True)
    return model.eval()


@torch.no_grad()
def agreement(model: LlamaForSequenceClassification, tokenizer: PreTrainedTokenizerFast) -> float:
    """The share of new pairs of walks that the reward model orders as the taste does."""
    rng = random.Random("agreement")
    prompts = rng.choices(walk_prompts(held_out=True), k=1000)
    pairs = [(prompt, random_walk(rng), random_walk(rng)) for prompt in prompts]
    pairs = [pair for pair in pairs if taste(pair[0], pair[1]) != taste(pair[0], pair[2])]
    firsts = model(input_ids=conversations(tokenizer, [(p, w) for p, w, _ in pairs])).logits[:, 0]
    seconds = model(input_ids=conversations(tokenizer, [(p, w) for p, _, w in pairs])).logits[:, 0]
    agreed = [
        (first > second) == (taste(prompt, one) > taste(prompt, other))
        for first, second, (prompt, one, other) in zip(firsts.tolist(), seconds.tolist(), pairs, strict=True)
    ]
    return float(sum(agreed) / len(agreed))


def write_walks(path: Path, prompts: list[str]) -> None:
    """One JSON row a line; a walk has no gold answer."""
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))


def main() -> None:
    """Write the policy's seed model, the reward model and the prompts of both tasks."""
    parser = argparse.ArgumentParser(description="Rebuild the mixed run's models and data.")
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write to (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED, help="default: %(default)s")
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)

    rng = random.Random("mixed data")
    heldout_sums = rng.sample(addition.all_prompts(held_out=True), NUM_HELDOUT_ROWS)
    addition.write_rows(out / "sums.jsonl", rng.sample(addition.all_prompts(held_out=False), NUM_TRAIN_ROWS))
    addition.write_rows(out / "heldout-sums.jsonl", heldout_sums)
    write_walks(out / "walks.jsonl", walk_prompts(held_out=False))
    write_walks(out / "heldout-walks.jsonl", walk_prompts(held_out=True)[:NUM_HELDOUT_ROWS])

    tokenizer = addition.build_tokenizer()
    policy = train_policy(tokenizer, seed=arguments.seed)
    addition.write_model(out / "seed-model", policy, tokenizer)
    print(f"sums: greedy on held-out {addition.accuracy(policy, tokenizer, heldout_sums):.1%}")

    tokenizer.chat_template = CHAT_TEMPLATE
    reward_model = train_reward_model(tokenizer, seed=arguments.seed)
    addition.write_model(out / "reward-model", reward_model, tokenizer)
    print(f"walks: the reward model agrees with the taste on {agreement(reward_model, tokenizer):.1%} of new pairs")


if __name__ == "__main__":
    main()
