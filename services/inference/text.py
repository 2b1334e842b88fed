"""Token ids to text, for rewards and people; the policy itself only ever sees ids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


class Decoder:
    """The tokenizer of a checkpoint folder, used in one direction."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    @classmethod
    def load(cls, folder: Path) -> Decoder:
        from transformers import AutoTokenizer

        return cls(AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False))

    def text(self, token_ids: Sequence[int]) -> str:
        """The text without special tokens, spaces as the model wrote them."""
        text: str = self._tokenizer.decode(
            list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text
