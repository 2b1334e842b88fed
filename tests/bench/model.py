"""A Llama made on the spot, with random weights: a bench needs a model's size and speed, not its knowledge."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

LETTERS = "aeionrst"
VOCABULARY = 256 + len(LETTERS) ** 2


def make_model(folder: Path, *, quick: bool) -> Path:
    """Save a Llama of 3.1 million parameters (70 thousand when `quick`) as a Hugging Face folder.

    It names no end-of-text token, in no file. So nothing but the token limit ends a completion, in either engine.
    """
    logging.disable_progress_bar()
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64 if quick else 256,
        intermediate_size=128 if quick else 704,
        num_hidden_layers=1 if quick else 4,
        num_attention_heads=2 if quick else 4,
        num_key_value_heads=2,
        head_dim=32 if quick else 64,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    tokenizer().save_pretrained(folder)
    return folder


def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level pair encoding, as most large models have: all bytes, and the pairs of a few letters."""
    merges = [(first, second) for first in LETTERS for second in LETTERS]
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *(first + second for first, second in merges)]
    pair_encoding = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    pair_encoding.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pair_encoding.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=pair_encoding, clean_up_tokenization_spaces=False)
