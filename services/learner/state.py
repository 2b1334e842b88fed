"""Training states: all that a run needs to go on as if nothing had happened. Safetensors and JSON, never pickle.

    run_dir/state/step-000050/   manifest.json  state.json  tensors-*.safetensors

`step-000050` holds the policy after 50 updates; step 50 comes next. There is no data cursor beside that number:
prompts, seeds and pairs follow from the run's seed and the step.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from services.learner.step import Trainer
from syncline import checkpoints
from syncline.errors import CheckpointError
from syncline.runspec import RunSpec

_SHARD_BYTES = 2 << 30  # see publish: the interpreter lock is held while a file is written


def folder_of(run_dir: Path, step: int) -> Path:
    return run_dir / "state" / f"step-{step:06d}"


def saved_steps(run_dir: Path) -> list[int]:
    """Steps with a complete state, oldest first."""
    found = (run_dir / "state").glob("step-[0-9]*")
    return sorted(int(path.name.removeprefix("step-")) for path in found if (path / checkpoints.MANIFEST).is_file())


def save(trainer: Trainer, *, run_id: str, spec: RunSpec, run_dir: Path, step: int) -> None:
    """Write the state before `step` and delete all but the newest `checkpoints.keep`. Raises CheckpointError."""
    about = {"run_id": run_id, "next_step": step, "steps": spec.steps, "sync": spec.sync.model_dump(mode="json")}

    def write(folder: Path) -> Mapping[str, Any]:
        try:
            for number, shard in enumerate(_shards(_tensors(trainer))):
                save_file(shard, folder / f"tensors-{number:05d}.safetensors")
        except SafetensorError as error:
            raise OSError(str(error)) from error
        (folder / "state.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        return about

    checkpoints.write_folder(folder_of(run_dir, step), write)
    checkpoints.prune([folder_of(run_dir, saved) for saved in saved_steps(run_dir)], keep=spec.checkpoints.keep)


def verify(run_dir: Path, step: int, *, run_id: str) -> None:
    """Check every byte of a state. Raises CheckpointError."""
    manifest = checkpoints.verify_folder(folder_of(run_dir, step))
    if (manifest.meta.get("run_id"), manifest.meta.get("next_step")) != (run_id, step):
        raise CheckpointError(f"{folder_of(run_dir, step)} is the state of {dict(manifest.meta)}, not of {run_id}")


def restore(trainer: Trainer, *, run_dir: Path, step: int) -> None:
    """Put a verified state into the trainer's policy, optimizer and random generators.

    Raises CheckpointError, with nothing changed, when it belongs to another model.
    """
    tensors: dict[str, Tensor] = {}
    for path in sorted(folder_of(run_dir, step).glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            tensors.update({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 - no mapping
    parameters = trainer.policy.named_parameters()
    for name, parameter in parameters:
        saved = tensors.get(f"policy.{name}")
        if saved is None or saved.shape != parameter.shape:
            raise CheckpointError(f"{folder_of(run_dir, step)} has no {name} of shape {tuple(parameter.shape)}")

    with torch.no_grad():
        for name, parameter in parameters:
            parameter.copy_(tensors[f"policy.{name}"])
    per_parameter: dict[int, dict[str, Tensor]] = {}
    for index, (name, _) in enumerate(parameters):
        own = f"optimizer.{name}:"
        if found := {key.removeprefix(own): tensors[key] for key in tensors if key.startswith(own)}:
            per_parameter[index] = found
    groups = trainer.optimizer.state_dict()["param_groups"]
    trainer.optimizer.load_state_dict({"state": per_parameter, "param_groups": groups})
    torch.set_rng_state(tensors["rng.cpu"])
    if trainer.policy.device.type == "cuda" and "rng.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["rng.cuda"], trainer.policy.device)


def _tensors(trainer: Trainer) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in trainer.policy.named_parameters():
        yield f"policy.{name}", parameter.detach()
        for key, value in trainer.optimizer.state.get(parameter, {}).items():
            yield f"optimizer.{name}:{key}", value
    yield "rng.cpu", torch.get_rng_state()
    if trainer.policy.device.type == "cuda":
        yield "rng.cuda", torch.cuda.get_rng_state(trainer.policy.device)


def _shards(tensors: Iterator[tuple[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    num_bytes = 0
    for name, tensor in tensors:
        shard[name] = tensor.contiguous()
        num_bytes += tensor.nbytes
        if num_bytes >= _SHARD_BYTES:
            yield shard
            shard, num_bytes = {}, 0
    if shard:
        yield shard
