"""Opening a run: the seed model, or the newest saved state that can be trusted, and what is published on disk."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

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
from syncline import checkpoints, recording
from syncline.algo.registry import build_algorithm
from syncline.errors import CheckpointError, FieldProblem, InvalidSpec, RunFailed
from syncline.runspec import RunSpec
from syncline.v1.checkpoint_pb2 import CheckpointHandle

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Run:
    """A run as the learner is asked to train it."""

    id: str
    spec: RunSpec
    dir: Path

    @property
    def seed_folder(self) -> Path:
        return Path(self.spec.model.path)


@dataclass(frozen=True, slots=True)
class Opened:
    """A run that is ready to train `first_step`. `published` are all its verified checkpoints, oldest first,
    `history` tells of the steps before, and `skipped` of what was not used; only rank 0 has them."""

    trainer: Trainer
    first_step: int
    published: tuple[CheckpointHandle, ...]
    history: History
    skipped: tuple[str, ...]


def open_run(run: Run, *, settings: LearnerSettings, stop: threading.Event, ranks: Ranks = ALONE) -> Opened:
    """Load the seed, go on from the newest usable state, and publish what generators need to start.

    Afterwards the disk holds the run as it was at `first_step`: what an earlier attempt made beyond it, and what is
    damaged, is set aside until the next state is saved, as this attempt makes it anew. All ranks open a run together;
    what is on disk is for rank 0 to judge and to change.

    Raises InvalidSpec; Unavailable, with nothing changed, when something cannot be read at the moment; CheckpointError
    when the storage refuses; and RunFailed when there are saved states and none can be used.
    """
    started = time.monotonic()
    trainer = _seed_trainer(run, settings=settings, stop=stop, ranks=ranks)
    whole, damaged = ranks.on_first(lambda: _verified_versions(run))
    verified = set(whole)
    if 0 not in verified:  # before a state is restored: these are the seed's weights
        publish_version(run, trainer.policy, version=0)
    first_step, skipped = _restore_newest(run, trainer, verified=verified)
    ranks.on_first(lambda: _set_aside_beyond(run, first_step))
    ranks.on_first(lambda: _sweep(run))
    if first_step not in verified and first_step > 0 and is_published(run.spec, first_step):
        publish_version(run, trainer.policy, version=first_step)
    folders = [checkpoints.version_folder(run.dir, version) for version in checkpoints.published(run.dir)]
    published = tuple(checkpoints.handle_of(folder) for folder in folders) if ranks.rank == 0 else ()
    history = state.history_of(run.dir, first_step) if ranks.rank == 0 and first_step > 0 else History()
    log.info("run_opened", run=run.id, first_step=first_step, seconds=round(time.monotonic() - started, 3))
    return Opened(trainer, first_step, published, history, skipped=(*damaged, *skipped))


def publish_version(run: Run, policy: Policy, *, version: int) -> CheckpointHandle:
    """Publish the policy as `version` of the run; all ranks together."""
    return publish(
        policy,
        run_id=run.id,
        run_dir=run.dir,
        version=version,
        dtype=run.spec.model.dtype,
        seed_folder=run.seed_folder,
    )


def _seed_trainer(run: Run, *, settings: LearnerSettings, stop: threading.Event, ranks: Ranks) -> Trainer:
    spec = run.spec
    device = settings.torch_device(local_rank=ranks.local_rank if ranks.size > 1 else None)
    dtype = DTYPES[spec.model.dtype]
    if ranks.size > 1 and device.type == "cuda":
        torch.cuda.set_device(device)  # of this thread: collectives use the current one
    _make_deterministic(spec.seed, threads=settings.torch_threads)
    try:
        algorithm = build_algorithm(spec.algorithm.model_dump())
    except ValueError as error:
        raise InvalidSpec([FieldProblem("algorithm", str(error), "options that fit together")]) from error
    policy = Policy.trainable(
        run.seed_folder,
        dtype=dtype,
        device=device,
        ranks=ranks,
        recompute=spec.model.activation_checkpointing,
    )
    reference = Reference(
        run_dir=run.dir,
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
        algorithm=algorithm,
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


def _verified_versions(run: Run) -> tuple[list[int], list[str]]:
    """Published versions whose every byte is right, and what is wrong with the others, which are set aside, so that
    they can be published anew. Raises Unavailable when one cannot be read at the moment."""
    verified: list[int] = []
    damaged: list[str] = []
    for version in checkpoints.published(run.dir):
        folder = checkpoints.version_folder(run.dir, version)
        try:
            meta = checkpoints.verify_folder(folder).meta
            if (meta.get("run_id"), meta.get("version")) != (run.id, version):
                raise CheckpointError(f"{folder} is version {meta.get('version')} of run {meta.get('run_id')}")
            verified.append(version)
        except CheckpointError as error:
            log.warning("checkpoint_set_aside", version=version, error=error.message)
            damaged.append(f"version {version} is damaged: {error.message}")
            checkpoints.set_aside([folder])
    return verified, damaged


def _restore_newest(run: Run, trainer: Trainer, *, verified: set[int]) -> tuple[int, list[str]]:
    """Step of the newest state that is whole, has the past of the spec, and whose rollouts can be made; and why newer
    ones were skipped. 0 leaves the seed, where no state was saved. Raises RunFailed when none of them can be used."""
    ranks = trainer.ranks
    skipped: list[str] = []
    for step in reversed(ranks.on_first(lambda: state.saved_steps(run.dir))):
        try:
            if step > run.spec.steps:
                raise CheckpointError(f"the run has {run.spec.steps} steps")
            ranks.on_first(lambda step=step: state.verify(run.dir, step, run_id=run.id, spec=run.spec))  # type: ignore[misc]
            needed = {version for version in sync_versions_at(run.spec, step) if 0 < version < step}
            if lost := sorted(needed - verified):
                raise CheckpointError(f"its rollouts are those of version {lost[0]}, which is damaged or gone")
            state.restore(trainer, run_dir=run.dir, step=step)
        except CheckpointError as error:
            log.warning("state_skipped", step=step, error=error.message)
            skipped.append(f"the state of step {step} cannot be used: {error.message}")
        else:
            return step, skipped
    if skipped:
        raise RunFailed(
            f"none of the saved states can be used: {'; '.join(skipped)}. Mend them and resume the run, or move "
            f"{run.dir / 'state'} away first to let it begin again from the seed model"
        )
    return 0, []


def _set_aside_beyond(run: Run, step: int) -> None:
    versions = [version for version in checkpoints.published(run.dir) if version > step]
    steps = [saved for saved in state.saved_steps(run.dir) if saved > step]
    if versions or steps:
        log.info("abandoned_future_set_aside", step=step, versions=versions, states=steps)
    checkpoints.set_aside(checkpoints.version_folder(run.dir, version) for version in versions)
    checkpoints.set_aside(state.folder_of(run.dir, saved) for saved in steps)
    checkpoints.set_aside(recording.recorded_from(run.dir, step))


def _sweep(run: Run) -> None:
    """What a killed attempt was writing or deleting would stay for ever, gigabytes at a time."""
    left = [path for part in state.PARTS for path in checkpoints.sweep(run.dir / part)]
    if left:
        log.info("leftovers_deleted", paths=[str(path) for path in left])
