"""All runs of a coordinator, one folder each below its run root.

Redis holds nothing that is not rebuilt from here and from the learner's saved states.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import structlog
from pydantic import ValidationError

from services.coordinator.records.run import RECORD, Run, RunRecord
from services.coordinator.records.series import storing
from services.coordinator.work.rollout_file import Origin
from syncline import durable
from syncline.errors import NotFound, StorageError, SynclineError
from syncline.runspec import RunSpec
from syncline.state import RunState
from syncline.storage import Storage

log = structlog.get_logger()


class RunStore:
    """All runs below one folder, oldest first."""

    def __init__(self, root: Path, *, storage_of: Callable[[str], Storage] | None = None) -> None:
        """`storage_of` says where a run keeps what services share; by default in its folder, which all of them see.

        Raises StorageError where nothing can be written below `root`.
        """
        self.root = root
        self._storage_of = storage_of
        self._runs: dict[str, Run] = {}
        _require_writable(root)
        durable.sweep(root)
        records = [(path.parent, record) for path in root.glob(f"*/{RECORD}") if (record := _read_record(path))]
        for folder, record in sorted(records, key=lambda pair: (pair[1].created_at, pair[1].id)):
            durable.sweep(folder)
            if record.state not in (RunState.PENDING, RunState.STARTING) and not record.state.terminal:
                record.state = RunState.STARTING  # nobody works on it yet in this life, whatever it was in the last
            self._runs[record.id] = self._run(folder, record)

    def create(
        self,
        run_id: str,
        spec: RunSpec,
        *,
        data: Mapping[str, str] | None = None,
        rollouts: Origin | None = None,
        idempotency_key: str = "",
        body_digest: str = "",
    ) -> Run:
        """A new run, pending. Raises StorageError, and leaves nothing."""
        folder = self.root / run_id
        record = RunRecord(
            id=run_id,
            spec=spec,
            created_at=time.time(),
            idempotency_key=idempotency_key,
            body_digest=body_digest,
            data=dict(data or {}),
            rollouts=rollouts,
        )
        try:
            with storing(folder):
                folder.mkdir()
            run = self._run(folder, record)
            run.save()
            run.emit("state", {"state": record.state, "before": None, "reason": ""})
        except StorageError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._runs[run_id] = run
        return run

    def delete(self, run: Run) -> None:
        """Delete everything of a run, its record last. Raises CheckpointError or StoreUnreachable."""
        if run.storage is not run.own:
            run.storage.delete_all()
        run.own.delete_all()
        del self._runs[run.id]
        run.changed.ring()

    def _run(self, folder: Path, record: RunRecord) -> Run:
        return Run(folder, record, storage=self._storage_of(record.id) if self._storage_of else None)

    def get(self, run_id: str) -> Run:
        try:
            return self._runs[run_id]
        except KeyError:
            raise NotFound(f"there is no run {run_id!r}; GET /v1/runs lists them") from None

    def all(self) -> Sequence[Run]:
        return list(self._runs.values())

    def heirs(self, run: Run) -> list[Run]:
        """Runs that start from a checkpoint of this one, and may ask for it again: those that failed can be resumed."""
        places = (str(run.folder.resolve()), run.storage.uri)
        return [
            other
            for other in self._runs.values()
            if other.state is not RunState.SUCCEEDED and other.spec.model.path.startswith(places)
        ]

    def by_idempotency_key(self, key: str) -> Run | None:
        return next((run for run in self._runs.values() if key and run.record.idempotency_key == key), None)


def _read_record(path: Path) -> RunRecord | None:
    """The record of a run; None, and a word in the log, for one that cannot be read: the others must be served."""
    try:
        return RunRecord.model_validate_json(path.read_bytes())
    except (OSError, ValidationError, SynclineError) as error:  # the spec in it checks itself, and raises InvalidSpec
        log.error("run_record_unreadable", path=str(path), error=str(error), do="mend the file or move its folder away")
        return None


def _require_writable(root: Path) -> None:
    """A folder that belongs to somebody else is told at the start, not by the first run."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=root, prefix=".writable-"):
            pass
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):  # a full disk keeps no run from being looked at
            return
        raise StorageError(
            f"{root} cannot be written by user {os.getuid()}, group {os.getgid()}: {error.strerror}; "
            "give the folder to them, or name another one in SYNCLINE_RUN_ROOT"
        ) from error
