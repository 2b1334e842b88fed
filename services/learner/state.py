"""Training states: all that a run needs to go on as if nothing had happened. Safetensors and JSON, never pickle.

On the run's storage:

    state/step-000050/   manifest.json  state.json  history.jsonl  tensors-*.safetensors

Above one rank each writes its own shards, as `rank-00001-tensors-*.safetensors`, and the manifest says how many ranks
there were. A run goes on with any number of ranks: where it differs, shards are put together and cut anew.

`step-000050` holds the policy after 50 updates; step 50 comes next. There is no data cursor beside that number:
prompts, seeds and pairs follow from the run's seed and the step.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import structlog
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from services.learner import shards
from services.learner.history import History
from services.learner.ranks import Ranks
from services.learner.step import Trainer
from syncline import checkpoints, published
from syncline.errors import CheckpointError
from syncline.run_parts import Sync
from syncline.runspec import RunSpec
from syncline.storage import Parts, Storage, prune

log = structlog.get_logger()
FOLDER = "state"
_HISTORY = "history.jsonl"
_SHARD_BYTES = 2 << 30  # see publish: the interpreter lock is held while a file is written


def name_of(step: int) -> str:
    """What a state is called on the run's storage."""
    return f"{FOLDER}/step-{step:06d}"


def saved_steps(storage: Storage) -> list[int]:
    """Steps with a complete state, oldest first. Raises Unavailable when the storage cannot tell."""
    numbers = (name.rpartition("/step-")[2] for name in storage.folders(FOLDER))
    return sorted(int(number) for number in numbers if number.isdecimal())


def save(
    trainer: Trainer, *, run_id: str, spec: RunSpec, storage: Storage, step: int, history: History | None = None
) -> None:
    """Write the state before `step`; rank 0 has the `history`.

    What it makes needless is deleted: all but the newest `checkpoints.keep` states, and what was set aside when the
    run was opened. Raises CheckpointError.
    """
    ranks = trainer.ranks
    about = {"run_id": run_id, "next_step": step, "steps": spec.steps, "sync": spec.sync.model_dump(mode="json")}
    parts: Parts = {}
    if ranks.size > 1:
        about["ranks"] = ranks.size
        ranks.on_first(lambda: storage.clear_parts(name_of(step)))
        part = ranks.together(lambda: storage.write_part(name_of(step), lambda folder: _write_tensors(trainer, folder)))
        written = ranks.gather({name: list(found) for name, found in part.items()})
        parts = {name: (size, sha256) for one in written for name, (size, sha256) in one.items()}

    def write(folder: Path) -> Mapping[str, Any]:
        if ranks.size == 1:
            _write_tensors(trainer, folder)
        (folder / "state.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        (folder / _HISTORY).write_text((history or History()).text(), encoding="utf-8")
        return about

    def finish() -> None:
        storage.write(name_of(step), write, parts=parts)
        prune(storage, [name_of(saved) for saved in saved_steps(storage)], keep=spec.checkpoints.keep)
        for parent in (FOLDER, published.FOLDER):
            storage.drop_aside(parent)

    ranks.on_first(finish)


def verify(storage: Storage, step: int, *, run_id: str, spec: RunSpec) -> None:
    """Check every byte of a state, that it tells what was trained, and that `spec` has the same past.

    Raises CheckpointError, and Unavailable when it cannot be read at the moment.
    """
    meta = checkpoints.read_manifest(storage.stage(name_of(step))).meta
    history_of(storage, step)
    place = storage.place_of(name_of(step))
    if (meta.get("run_id"), meta.get("next_step")) != (run_id, step):
        raise CheckpointError(f"{place} is the state of {dict(meta)}, not of {run_id}")
    then = spec.model_copy(update={"sync": Sync.model_validate(meta["sync"])}).schedule()
    now = spec.schedule()
    for past in range(step):
        if (used := then.version_for_step(past)) != (asked := now.version_for_step(past)):
            differs = f"step {past} on version {used}, and by the sync schedule of the run spec it is {asked}"
            raise CheckpointError(f"{place} trained {differs}")


def history_of(storage: Storage, step: int) -> History:
    """What trained before `step`, of a verified state.

    Raises CheckpointError when it does not tell all of it, and Unavailable when it cannot be read at the moment.
    """
    place, file = storage.place_of(name_of(step)), storage.local(name_of(step)) / _HISTORY
    try:
        found = History.parse(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{place} does not tell what was trained: it has no {_HISTORY}") from error
    except OSError as error:
        raise checkpoints.unreadable(file, error) from error
    if len(found) != step:
        raise CheckpointError(f"{place} tells of {len(found)} steps, not of {step}")
    return found


def restore(trainer: Trainer, *, storage: Storage, step: int) -> None:
    """Put a verified state into the trainer's policy, optimizer and random generators.

    Raises CheckpointError, with nothing changed, when it belongs to another model, and Unavailable when it cannot be
    read at the moment.
    """
    tensors = trainer.ranks.together(lambda: _fitting(trainer, storage.local(name_of(step))))
    parameters = trainer.policy.named_parameters()
    with torch.no_grad():
        for name, parameter in parameters:
            shards.local(parameter).copy_(tensors[f"policy.{name}"])
    per_parameter: dict[int, dict[str, Tensor]] = {}
    for index, (name, parameter) in enumerate(parameters):
        own = f"optimizer.{name}:"
        found = {key.removeprefix(own): value for key, value in tensors.items() if key.startswith(own)}
        if found:
            per_parameter[index] = {key: shards.shard_like(value, parameter) for key, value in found.items()}
    groups = trainer.optimizer.state_dict()["param_groups"]
    trainer.optimizer.load_state_dict({"state": per_parameter, "param_groups": groups})
    torch.set_rng_state(tensors["rng.cpu"])
    if trainer.policy.device.type == "cuda" and "rng.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["rng.cuda"], trainer.policy.device)


def _fitting(trainer: Trainer, folder: Path) -> dict[str, Tensor]:
    """This rank's tensors of a state. Raises CheckpointError when they are those of another model."""
    try:
        tensors = _read(folder, ranks=trainer.ranks)
    except OSError as error:
        raise checkpoints.unreadable(folder, error) from error
    for name, parameter in trainer.policy.named_parameters():
        saved, wanted = tensors.get(f"policy.{name}"), shards.local(parameter).shape
        if saved is None or saved.shape != wanted:
            raise CheckpointError(f"{folder} has no {name} of shape {tuple(wanted)}")
    return tensors


def _read(folder: Path, *, ranks: Ranks) -> dict[str, Tensor]:
    """This rank's tensors of a state, whatever number of ranks saved it."""
    saved_by = int(checkpoints.read_manifest(folder).meta.get("ranks", 1))
    if saved_by == ranks.size:
        return {name: file.get_tensor(name) for name, file in _open(folder, ranks.rank, saved_by).items()}
    log.info("state_resharded", folder=str(folder), saved_by=saved_by, ranks=ranks.size)
    parts = [_open(folder, rank, saved_by) for rank in range(saved_by)]
    return {
        name: file.get_tensor(name)  # random generators: all ranks start from the same seed
        if name.startswith("rng.")
        else shards.piece_of([part[name].get_tensor(name) for part in parts], rank=ranks.rank, size=ranks.size)
        for name, file in parts[0].items()
    }


def _open(folder: Path, rank: int, saved_by: int) -> dict[str, Any]:
    """tensor name -> the open file that holds it, of what `rank` saved."""
    paths = sorted(folder.glob(f"{_prefix(rank, saved_by)}*.safetensors"))
    files: list[Any] = [safe_open(path, framework="pt") for path in paths]
    return {name: file for file in files for name in file.keys()}  # noqa: SIM118 - no mapping


def _prefix(rank: int, size: int) -> str:
    return "tensors-" if size == 1 else f"rank-{rank:05d}-tensors-"


def _write_tensors(trainer: Trainer, folder: Path) -> list[str]:
    """What this rank holds; returns the names of the files. Raises OSError."""
    prefix = _prefix(trainer.ranks.rank, trainer.ranks.size)
    names = []
    try:
        for number, shard in enumerate(_shards(_tensors(trainer))):
            names.append(f"{prefix}{number:05d}.safetensors")
            save_file(shard, folder / names[-1])
    except SafetensorError as error:
        raise OSError(str(error)) from error
    return names


def _tensors(trainer: Trainer) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in trainer.policy.named_parameters():
        yield f"policy.{name}", shards.local(parameter.detach())
        for key, value in trainer.optimizer.state.get(parameter, {}).items():
            yield f"optimizer.{name}:{key}", shards.local(value)
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
