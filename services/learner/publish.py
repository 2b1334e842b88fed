"""Published weights: a Hugging Face folder that any engine reads, with a probe that proves what was read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors import SafetensorError

from services.learner.batch import TokenRows
from services.learner.policy import DTYPES, TOLERANCES, Policy
from syncline import ids, published
from syncline.storage import Storage
from syncline.v1.checkpoint_pb2 import CheckpointHandle

_PROBE_TOKENS = 32
_SHARD_SIZE = "2GB"  # safetensors holds the interpreter lock while it writes a file; between files leases are renewed
_COPIED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
)


def publish(policy: Policy, *, run_id: str, storage: Storage, version: int, dtype: str) -> CheckpointHandle:
    """Write `version` where all services see it. Publishing the same weights again changes nothing.

    Above one rank all take part, and rank 0 alone writes. Raises CheckpointError when the storage refuses.
    """
    proof = probe(policy, dtype=dtype)
    weights = policy.weights()

    def write(folder: Path) -> Mapping[str, Any]:
        try:
            policy.model.save_pretrained(folder, state_dict=weights, max_shard_size=_SHARD_SIZE)
        except SafetensorError as error:  # its own class, also for a full disk
            raise OSError(str(error)) from error
        _describe(folder, dtype=dtype, seed_folder=policy.folder)
        return {"run_id": run_id, "version": version, "dtype": dtype, "probe": proof}

    def written() -> str:
        storage.write(published.name_of(version), write)
        return published.handle_of(storage, version).SerializeToString().hex()

    return CheckpointHandle.FromString(bytes.fromhex(policy.ranks.on_first(written)))


@torch.no_grad()
def probe(policy: Policy, *, dtype: str) -> dict[str, Any]:
    """A fixed token sequence with the policy's log-probabilities for it, under the weights that are published."""
    context = getattr(policy.model.config.get_text_config(), "max_position_embeddings", None) or _PROBE_TOKENS + 1
    rng = Random(ids.derived_seed("probe"))
    # One less than the context: an engine that scores a prompt wants room for one more token.
    token_ids = [rng.randrange(policy.vocabulary) for _ in range(max(2, min(_PROBE_TOKENS, context - 1)))]
    rows = TokenRows(
        input_ids_RW=torch.tensor([token_ids], device=policy.device),
        mask_RT=torch.ones(1, len(token_ids) - 1, dtype=torch.bool, device=policy.device),
        generator_RT=torch.zeros(1, len(token_ids) - 1, device=policy.device),
        num_tokens=len(token_ids),
    )
    log_probs_RT, _ = policy.score(rows)
    return {"token_ids": token_ids, "log_probs": log_probs_RT[0].tolist(), "tolerance": TOLERANCES[DTYPES[dtype]]}


def _describe(folder: Path, *, dtype: str, seed_folder: Path) -> None:
    """Everything but the weights is the seed's own, byte for byte; only the type in config.json is that of the run."""
    config = json.loads((seed_folder / "config.json").read_text(encoding="utf-8"))
    config.pop("torch_dtype", None)  # the older name of the same key
    config["dtype"] = str(DTYPES[dtype]).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (folder / "generation_config.json").unlink(missing_ok=True)
    for name in _COPIED:
        if (seed_folder / name).is_file():
            shutil.copyfile(seed_folder / name, folder / name)
