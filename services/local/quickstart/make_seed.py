"""Train the quickstart's seed model from scratch and write its data.

    python -m services.local.quickstart.make_seed [--out DIR] [--seed N]

The files it writes are in the repository, so nobody has to run this. It is here so that the seed model is no
mystery, and so that it can be rebuilt: one seed gives the same bytes on the same machine and library versions.

The task is the smallest that shows the real thing: add two two-digit numbers, `37+48=` -> `85`. The model
learns it from an *imperfect teacher*, who often forgets to carry and slips at random. So it starts out right about
half of the time when it takes its most likely answer (nearly always where there is nothing to carry, nearly never
where there is) and on two of five samples: good enough that most groups of samples hold a right and a wrong answer,
bad enough that reinforcement learning has something to repair.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import zlib
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

HERE = Path(__file__).resolve().parent
DEFAULT_SEED = 2
"""Seeds 0 and 1 start within two points of this one and gain nearly as much."""

NUM_TRAIN_ROWS = 4096
NUM_HELDOUT_ROWS = 400
MAX_ANSWER_TOKENS = 4

FORGETS_CARRY = 0.6
SLIPS = 0.5

NUM_STEPS = 1500
NUM_WARMUP_STEPS = 50
BATCH_SIZE = 128
PEAK_LR = 2e-3

PAD, EOS, UNK = "<pad>", "<eos>", "<unk>"
CHARACTERS = "0123456789+-*/=().,<> \nabcxyz"
"""Digits first. Most others are never used, but other prompts can be tried; with the three special tokens this
makes 32 ids, so every id that the model can sample is one that the tokenizer can spell."""


def is_held_out(prompt: str) -> bool:
    """Whether `prompt` is kept for evaluation: a fixed tenth of all, by checksum, the same for every seed."""
    return zlib.crc32(prompt.encode()) % 10 == 0


def all_prompts(*, held_out: bool) -> list[str]:
    """Every problem of one side of the split, in a fixed order."""
    prompts = (f"{a}+{b}=" for a in range(10, 100) for b in range(10, 100))
    return [prompt for prompt in prompts if is_held_out(prompt) == held_out]


def answer(prompt: str) -> int:
    """The right answer."""
    a, b = prompt.rstrip("=").split("+")
    return int(a) + int(b)


def teacher_answer(prompt: str, rng: random.Random) -> int:
    """What the imperfect teacher says: a forgotten carry, a slip in one digit, or the truth."""
    a, b = prompt.rstrip("=").split("+")
    total = int(a) + int(b)
    carries = int(a[-1]) + int(b[-1]) >= 10
    if carries and rng.random() < FORGETS_CARRY:
        return total - 10
    if rng.random() < SLIPS:
        return total + rng.choice((-10, -1, 1, 10))
    return total


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token per character, no token added at the front or the end, and decoding that gives the text back.

    There is no BOS: a prompt is its characters and nothing else. Byte-pair encoding without merges is the plainest
    way to split into characters; the Fuse decoder keeps the library from joining them with spaces.
    """
    vocab = {token: index for index, token in enumerate([PAD, EOS, UNK, *CHARACTERS])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token=UNK))
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNK,
        model_max_length=128,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama of about a hundred thousand parameters.

    Two heads of 32 rather than four of 16: vLLM's CPU attention has no kernel for heads smaller than 32.
    """
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        # Five times the default: from smaller weights most seeds never get past guessing the tens digit.
        initializer_range=0.1,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    model = LlamaForCausalLM(config)
    # Written out, as inference engines read the stop token from here.
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    return model


def encode_lessons(
    tokenizer: PreTrainedTokenizerFast, lessons: Iterable[tuple[str, int | str]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids [B, T] and labels [B, T]; only the answer and its end of sequence are learned, not the prompt."""
    ids, labels = [], []
    for prompt, said in lessons:
        head = tokenizer.encode(prompt)
        tail = [*tokenizer.encode(str(said)), tokenizer.eos_token_id]
        ids.append(head + tail)
        labels.append([-100] * len(head) + tail)
    width = max(len(row) for row in ids)
    # Padding on the right needs no attention mask: a causal model never looks at what comes after.
    ids_BT = torch.tensor([row + [tokenizer.pad_token_id] * (width - len(row)) for row in ids])
    labels_BT = torch.tensor([row + [-100] * (width - len(row)) for row in labels])
    return ids_BT, labels_BT


def learning_rate(step: int) -> float:
    """Linear warm-up, then a cosine down to a tenth of the peak."""
    if step < NUM_WARMUP_STEPS:
        return PEAK_LR * (step + 1) / NUM_WARMUP_STEPS
    progress = (step - NUM_WARMUP_STEPS) / (NUM_STEPS - NUM_WARMUP_STEPS)
    return PEAK_LR * (0.55 + 0.45 * math.cos(math.pi * progress))


def train(tokenizer: PreTrainedTokenizerFast, *, seed: int) -> LlamaForCausalLM:
    """Imitate the teacher on problems that are not held out."""
    # One thread and one generator: float32 sums then always run in the same order, hence the same bytes.
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    rng = random.Random(seed)
    prompts = all_prompts(held_out=False)
    model = build_model(tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR, betas=(0.9, 0.95), weight_decay=0.0)
    for step in range(NUM_STEPS):
        optimizer.param_groups[0]["lr"] = learning_rate(step)
        # The teacher answers afresh each time: the model learns their habits, not their mistakes by heart.
        batch = [(prompt, teacher_answer(prompt, rng)) for prompt in rng.choices(prompts, k=BATCH_SIZE)]
        ids_BT, labels_BT = encode_lessons(tokenizer, batch)
        loss = model(input_ids=ids_BT, labels=labels_BT).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % 300 == 0:
            print(f"step {step + 1:4d}  loss {loss.item():.3f}", flush=True)
    return model.eval()


@torch.no_grad()
def accuracy(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: list[str], *, num_samples: int = 0
) -> float:
    """The share of right answers: the most likely answer to each prompt, or `num_samples` sampled ones."""
    ids_BT = torch.tensor([tokenizer.encode(prompt) for prompt in prompts])
    num_prompt_tokens = ids_BT.shape[1]
    ids_BT = ids_BT.repeat_interleave(max(num_samples, 1), dim=0)
    for _ in range(MAX_ANSWER_TOKENS):
        logits_BV = model(input_ids=ids_BT).logits[:, -1]
        next_B1 = torch.multinomial(logits_BV.softmax(-1), 1) if num_samples else logits_BV.argmax(-1, keepdim=True)
        ids_BT = torch.cat([ids_BT, next_B1], dim=1)
    texts = [tokenizer.decode(row[num_prompt_tokens:]).split(EOS)[0] for row in ids_BT]
    wanted = [str(answer(prompt)) for prompt in prompts for _ in range(max(num_samples, 1))]
    return sum(map(str.__eq__, texts, wanted)) / len(wanted)


def write_rows(path: Path, prompts: list[str]) -> None:
    """One JSON row a line, in the form that every task's data has."""
    rows = [json.dumps({"prompt": prompt, "answer": str(answer(prompt))}) for prompt in prompts]
    path.write_text("".join(row + "\n" for row in rows))


def write_model(folder: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """An ordinary Hugging Face model folder."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for path in folder.iterdir():
        # Some writers leave files readable by their owner only, and a container runs as somebody else.
        path.chmod(0o644)


def main() -> None:
    """Write the seed model, the training prompts and the held-out prompts."""
    parser = argparse.ArgumentParser(description="Rebuild the quickstart's seed model and data.")
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write to (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED, help="default: %(default)s")
    arguments = parser.parse_args()

    # The data does not depend on the seed, so that seed models can be compared on the same prompts.
    rng = random.Random("quickstart data")
    train_prompts = rng.sample(all_prompts(held_out=False), NUM_TRAIN_ROWS)
    heldout_prompts = rng.sample(all_prompts(held_out=True), NUM_HELDOUT_ROWS)

    tokenizer = build_tokenizer()
    model = train(tokenizer, seed=arguments.seed)
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_rows(arguments.out / "train.jsonl", train_prompts)
    write_rows(arguments.out / "heldout.jsonl", heldout_prompts)
    write_model(arguments.out / "seed-model", model, tokenizer)
    greedy = accuracy(model, tokenizer, heldout_prompts)
    sampled = accuracy(model, tokenizer, train_prompts, num_samples=1)
    print(f"greedy on held-out {greedy:.1%}, sampled on training prompts {sampled:.1%}")


if __name__ == "__main__":
    main()
