"""Deterministic identities and seeds.

Every random choice of a run derives from the run's seed and the place where it is made,
never from who makes it or when. That is what makes a run with a killed pod follow the
same path as one without.
"""

from __future__ import annotations

import hashlib
import secrets


def derived_seed(*parts: int | str) -> int:
    """A 63-bit seed that depends on `parts` alone: SHA-256 of their text, first eight bytes.

    >>> derived_seed(0, "sample", 3, 1, 7) == derived_seed(0, "sample", 3, 1, 7)
    True
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def sample_seed(run_seed: int, *, step: int, prompt_index: int, sample_index: int) -> int:
    """Seed of one training sample: whoever generates it, in which batch and at which attempt, it comes out the same."""
    return derived_seed(run_seed, "sample", step, prompt_index, sample_index)


def pair_seed(run_seed: int, *, step: int, prompt_index: int) -> int:
    """Seed of the choice of one pair among the samples of a group."""
    return derived_seed(run_seed, "pairs", step, prompt_index)


def evaluation_seed(run_seed: int, *, name: str, prompt_index: int, sample_index: int) -> int:
    """Seed of one evaluation sample: the same for every version, so versions are compared on equal draws."""
    return derived_seed(run_seed, "evaluation", name, prompt_index, sample_index)


def new_run_id(name: str) -> str:
    """A readable run id that no other run has: the spec's name and six hexadecimal digits."""
    return f"{name}-{secrets.token_hex(3)}"


def new_member_id(role: str) -> str:
    """Identity of one process in the fleet."""
    return f"{role}-{secrets.token_hex(4)}"
