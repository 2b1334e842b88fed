"""Opening a run: the seed model, or the newest saved state that can be trusted, and what is published."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass

import structlog
import torch

from services.learner import state
from services.learner.history import History
from services.learner.optimizer import build_optimizer
from services.learner.policy import ALONE, DTYPES, Policy
from services.learner.publish import publish
from services.learner.ranks import Ranks
from services.learner.reference import Reference
from services.learner.retention import is_published, sync_versions_at
from services.learner.settings import LearnerSettings
from services.learner.step import Trainer
from syncline import published, recording, seeds
from syncline.algorithmspec import build_algorithm
from syncline.cache import Cache
from syncline.errors import CheckpointError
from syncline.runspec import RunSpec
from syncline.storage import Storage
from syncline.v1.checkpoint_pb2 import CheckpointHandle

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Run:
    """A run as the learner is asked to train it."""

    id: str
    spec: RunSpec
    storage: Storage
    cache: Cache
    """For local copies of a remote seed."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A run that is ready to train `first_step`. `published` are all its verified checkpoints, oldest first,
    and `history` tells of the steps before; only rank 0 has them."""

    trainer: Trainer
    first_step: int
    published: tuple[CheckpointHandle, ...]
    history: History


def open_run(run: Run, *, settings: LearnerSettings, stop: threading.Event, ranks: Ranks = ALONE) -> Opened:
    """Load the seed, go on from the newest usable state, and publish what generators need to start.

    Afterwards its storage holds the run as it was at `first_step`: what an earlier attempt made beyond it is deleted,
    as this attempt makes it anew. All ranks open a run together; what is there is for rank 0 to judge and to change.
    Raises InvalidSpec or CheckpointError, and what `seeds.fetch` raises.
    """
    started = time.monotonic()
    trainer = _seed_trainer(run, settings=settings, stop=stop, ranks=ranks)
    verified = set(ranks.on_first(lambda: sorted(_verified_versions(run))))
    if 0 not in verified:  # before a state is restored: these are the seed's weights
        publish_version(run, trainer.policy, version=0)
    first_step = _restore_newest(run, trainer, verified=verified)
    ranks.on_first(lambda: _delete_beyond(run, first_step))
    ranks.on_first(lambda: _sweep(run))
    if first_step not in verified and first_step > 0 and is_published(run.spec, first_step):
        publish_version(run, trainer.policy, version=first_step)
    handles: tuple[CheckpointHandle, ...] = ()
    history = History()
    if ranks.rank == 0:
        handles = tuple(published.handle_of(run.storage, version) for version in published.versions(run.storage))
        history = state.history_of(run.storage, first_step) if first_step > 0 else history
    log.info("run_opened", run=run.id, first_step=first_step, seconds=round(time.monotonic() - started, 3))
    return Opened(trainer, first_step, handles, history)


def publish_version(run: Run, policy: Policy, *, version: int) -> CheckpointHandle:
    """Publish the policy as `version` of the run; all ranks together."""
    return publish(policy, run_id=run.id, storage=run.storage, version=version, dtype=run.spec.model.dtype)


def _seed_trainer(run: Run, *, settings: LearnerSettings, stop: threading.Event, ranks: Ranks) -> Trainer:
    spec = run.spec
    device = settings.torch_device(local_rank=ranks.local_rank if ranks.size > 1 else None)
    dtype = DTYPES[spec.model.dtype]
    if ranks.size > 1 and device.type == "cuda":
        torch.cuda.set_device(device)  # of this thread: collectives use the current one
    _make_deterministic(spec.seed, threads=settings.torch_threads)
    # Rank 0 alone reads the weights: see Policy.
    seed = ranks.together(lambda: seeds.fetch(spec.model.path, cache=run.cache, weights=ranks.rank == 0))
    policy = Policy.trainable(
        seed.folder,
        dtype=dtype,
        device=device,
        ranks=ranks,
        recompute=spec.model.activation_checkpointing,
    )
    reference = Reference(
        seed_folder=seed.folder,
        storage=run.storage,
        sync=spec.reference.sync,
        dtype=dtype,
        device=device,
        ranks=ranks,
    )
    return Trainer(
        spec=spec,
        policy=policy,
        reference=reference,
        optimizer=build_optimizer(policy, spec.optimizer),
        algorithm=build_algorithm(spec.algorithm),
        micro_batch_tokens=settings.micro_batch_tokens,
        stop=stop,
        ranks=ranks,
    )


def _make_deterministic(seed: int, *, threads: int) -> None:
    """As far as torch can: to the bit on a CPU, and on a GPU but for kernels that have no deterministic form."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it; read when it starts
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # A debugging aid that writes every buffer twice; all of ours are written in full.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.manual_seed(seed)


def _verified_versions(run: Run) -> set[int]:
    """Published versions whose every byte is right; damaged ones are deleted, so that they can be published anew."""
    verified = set()
    for version in published.versions(run.storage):
        name = published.name_of(version)
        try:
            meta = run.storage.check(name).meta
            if (meta.get("run_id"), meta.get("version")) != (run.id, version):
                where = run.storage.place_of(name)
                raise CheckpointError(f"{where} is version {meta.get('version')} of run {meta.get('run_id')}")
            verified.add(version)
        except CheckpointError as error:
            log.warning("checkpoint_discarded", version=version, error=error.message)
            run.storage.delete([name])
    return verified


def _restore_newest(run: Run, trainer: Trainer, *, verified: set[int]) -> int:
    """Step of the newest state that is whole and whose rollouts can be made; 0 leaves the seed."""
    ranks = trainer.ranks
    for step in reversed(ranks.on_first(lambda: state.saved_steps(run.storage))):
        try:
            if step > run.spec.steps:
                raise CheckpointError(f"the run has {run.spec.steps} steps")
            ranks.on_first(lambda step=step: state.verify(run.storage, step, run_id=run.id))  # type: ignore[misc]
            needed = {version for version in sync_versions_at(run.spec, step) if 0 < version < step}
            if lost := sorted(needed - verified):
                raise CheckpointError(f"step {step} needs version {lost[0]}, which is not published any more")
            state.restore(trainer, storage=run.storage, step=step)
        except CheckpointError as error:
            log.warning("state_skipped", step=step, error=error.message)
        else:
            return step
    return 0


def _delete_beyond(run: Run, step: int) -> None:
    versions = [version for version in published.versions(run.storage) if version > step]
    steps = [saved for saved in state.saved_steps(run.storage) if saved > step]
    if versions or steps:
        log.info("abandoned_future_deleted", step=step, versions=versions, states=steps)
    run.storage.delete([published.name_of(version) for version in versions])
    run.storage.delete([state.name_of(saved) for saved in steps])
    recording.forget_from(run.storage, step)


def _sweep(run: Run) -> None:
    """What a killed attempt was writing or deleting would stay for ever, gigabytes at a time."""
    left = [place for parent in (published.FOLDER, state.FOLDER) for place in run.storage.sweep(parent)]
    if left:
        log.info("leftovers_deleted", left=left)
