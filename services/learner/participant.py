"""What one rank does in an attempt, rank 0 like the others: each of rank 0's orders is a method here, by its name."""

from __future__ import annotations

import gc
import threading
from collections.abc import Sequence
from dataclasses import replace

import torch

from services.learner import state
from services.learner.orders import Order
from services.learner.policy import ALONE
from services.learner.ranks import Ranks
from services.learner.resume import Opened, Run, open_run, publish_version
from services.learner.settings import LearnerSettings
from services.learner.step import Update, update
from syncline import runspec
from syncline.cache import Cache
from syncline.errors import Conflict
from syncline.runspec import RunSpec
from syncline.storage import storage_at
from syncline.v1.checkpoint_pb2 import CheckpointHandle
from syncline.v1.rollout_pb2 import ScoredGroup


class Participant:
    """One rank of one attempt. All ranks make the same calls in the same order; they block, and meet in collectives."""

    def __init__(self, settings: LearnerSettings, *, cache: Cache, stop: threading.Event, ranks: Ranks = ALONE) -> None:
        """`stop` may be set from outside to abandon an update."""
        self._settings = settings
        self._cache = cache
        self._stop = stop
        self._ranks = ranks
        self._run: Run | None = None
        self._opened: Opened | None = None

    @property
    def run(self) -> Run:
        """Raises Conflict before it is known."""
        if self._run is None:
            raise Conflict("the run is still loading; try again when it trains")
        return self._run

    def reschedule(self, spec: RunSpec) -> None:
        """The run differs in its sync schedule from now on."""
        self._run = replace(self.run, spec=spec)

    def carry_out(self, order: Order) -> None:
        """What rank 0 does at the same time by calling the method itself."""
        getattr(self, order.name)(*((order.groups,) if order.name == "update" else ()), **order.fields)

    def open(self, *, run_id: str, spec_json: str, run_dir: str) -> Opened:
        """Raises what `open_run` raises."""
        self.close()
        storage = storage_at(run_dir, cache=self._cache)
        self._run = run = Run(run_id, runspec.parse_json(spec_json), storage, self._cache)
        self._opened = open_run(run, settings=self._settings, stop=self._stop, ranks=self._ranks)
        return self._opened

    def update(self, groups: Sequence[ScoredGroup], *, step: int, version: int) -> Update:
        """Raises what the update raises."""
        return update(self._ready.trainer, groups, step=step, version=version)

    def publish(self, *, version: int) -> CheckpointHandle:
        """Raises CheckpointError when the storage refuses."""
        return publish_version(self.run, self._ready.trainer.policy, version=version)

    def save(self, *, step: int) -> None:
        """Raises CheckpointError when the storage refuses."""
        run, opened = self.run, self._ready
        state.save(opened.trainer, run_id=run.id, spec=run.spec, storage=run.storage, step=step, history=opened.history)

    def close(self) -> None:
        """Forget the run and free what it held."""
        self._run = self._opened = None
        gc.collect()  # modules and their hooks refer to each other
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @property
    def _ready(self) -> Opened:
        assert self._opened is not None, "a run is opened first"
        return self._opened
