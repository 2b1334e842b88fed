"""The record of runs, on disk: what was asked, what happened, what came out.

One folder a run: `run.json` (the record, replaced atomically), and append-only JSON lines for
events, steps, evaluations and samples. Redis holds nothing that is not rebuilt from here and
from the learner's saved states.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from services.coordinator.rollout_file import Origin
from syncline import checkpoints
from syncline.bell import Bell
from syncline.errors import FieldProblem, NotFound, StorageError, SynclineError
from syncline.runspec import RunSpec
from syncline.state import RunEvent, RunState, transition
from syncline.storage import FolderStorage, Storage

log = structlog.get_logger()
Series = Literal["events", "steps", "evaluations", "samples"]
_SERIES: tuple[Series, ...] = ("events", "steps", "evaluations", "samples")


class RunRecord(BaseModel):
    """What run.json holds."""

    model_config = ConfigDict(extra="forbid")

    id: str
    spec: RunSpec
    state: RunState = RunState.PENDING
    reason: str = ""
    paused: bool = False
    """Whether a person holds the run, through lost attempts and restarts of the coordinator."""
    created_at: float
    started_at: float | None = None
    finished_at: float | None = None
    idempotency_key: str = ""
    body_digest: str = ""
    step: int = 0
    """Updates made."""
    version: int = 0
    """Version that the generators were last told to serve for training."""
    published: list[int] = []
    syncs: int = 0
    """Times the generators got new weights for training."""
    attempts: int = 0
    skipped_prompts: dict[str, int] = {}
    """Prompts too long for the model, by task."""
    rollouts: Origin | None = None
    """The file that the run trains on; None where generators make its rollouts."""
    phase_seconds: dict[str, float] = {}
    warnings: list[dict[str, str]] = []
    """What is wrong without being a reason to refuse or end it: {path, problem, allowed}."""


class Run:
    """One run: its record, its series in memory and on disk, and a bell for those who follow it."""

    def __init__(self, folder: Path, record: RunRecord, *, storage: Storage | None = None) -> None:
        self.folder = folder
        """For the coordinator's own records."""
        self.own = FolderStorage(folder)
        self.storage = storage or self.own
        """For what learner, generators and coordinator share."""
        self.judging = asyncio.Lock()
        """Held while standings are written."""
        self.record = record
        self.series: dict[Series, list[dict[str, Any]]] = {
            name: _read_lines(folder / f"{name}.jsonl") for name in _SERIES
        }
        self.changed = Bell()

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def spec(self) -> RunSpec:
        return self.record.spec

    @property
    def state(self) -> RunState:
        return self.record.state

    def save(self) -> None:
        """Write the record. Raises StorageError."""
        self._write("run.json", self.record.model_dump_json(indent=1) + "\n")

    def change_period(self, spec: RunSpec) -> None:
        """Record what `RunSpec.with_period` made of the spec, so that a resumed run follows the same schedule."""
        self.record.spec = spec
        self.save()
        self.emit("period", {"from_step": spec.schedule().last_start, "period": spec.sync.changes[-1].period})

    def apply(self, event: RunEvent, reason: str = "") -> None:
        """Move the state machine, save, and tell followers.

        Raises Conflict where the event has no place, and StorageError, with nothing changed, when it cannot be
        written. An end holds even then: a full disk must not keep a run from failing.
        """
        earlier, before = self.record, self.record.state
        self.record = earlier.model_copy(update={"state": transition(before, event)})
        self.record.reason = reason
        if event in (RunEvent.PAUSE, RunEvent.RESUME):
            self.record.paused = event is RunEvent.PAUSE
        if event is RunEvent.START and self.record.started_at is None:
            self.record.started_at = time.time()
        self.record.finished_at = time.time() if self.record.state.terminal else None
        try:
            self.save()
            self.emit("state", {"state": self.record.state, "before": before, "reason": reason})
        except StorageError as error:
            if not self.record.state.terminal:
                self.record = earlier
                raise
            log.error("end_not_written", run_id=self.id, state=self.record.state, error=error.message)
            self.changed.ring()

    def emit(self, kind: str, data: dict[str, Any]) -> None:
        """Append to the event log; its sequence number is the id that SSE clients resume from."""
        self.append("events", {"id": len(self.series["events"]) + 1, "type": kind, "at": time.time(), "data": data})

    def warn(self, problems: Sequence[FieldProblem]) -> None:
        """Record what is wrong without being a reason to refuse or end the run; the newest of each path stays."""
        said = [asdict(problem) for problem in problems]
        paths = {problem.path for problem in problems}
        self.record.warnings = [*(one for one in self.record.warnings if one["path"] not in paths), *said]
        self.save()
        for warning in said:
            self.emit("warning", warning)

    def append(self, name: Series, *rows: dict[str, Any]) -> None:
        """Append rows to a series, all or none, and ring the bell. Raises StorageError."""
        if not rows:
            return
        path = self.folder / f"{name}.jsonl"
        with _storing(path):
            _append(path, "".join(json.dumps(row) + "\n" for row in rows).encode())
        self.series[name].extend(rows)
        self.changed.ring()

    def rewind(self, step: int) -> None:
        """Forget what happened from `step` on: an attempt that goes on from a saved state repeats it."""
        series: tuple[Series, ...] = ("steps", "samples", "evaluations")
        for name in series:
            kept = [row for row in self.series[name] if row.get("step", row.get("version", 0) - 1) < step]
            if len(kept) < len(self.series[name]):
                self._write(f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in kept))
                self.series[name] = kept
        self.record.step = step

    def _write(self, name: str, text: str) -> None:
        with _storing(self.folder / name):
            checkpoints.write_text(self.folder / name, text)


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
        records = [(path.parent, record) for path in root.glob("*/run.json") if (record := _read_record(path))]
        for folder, record in sorted(records, key=lambda pair: (pair[1].created_at, pair[1].id)):
            checkpoints.sweep(folder)
            if record.state not in (RunState.PENDING, RunState.STARTING) and not record.state.terminal:
                record.state = RunState.STARTING  # nobody works on it yet in this life, whatever it was in the last
            self._runs[record.id] = self._run(folder, record)

    def create(
        self,
        run_id: str,
        spec: RunSpec,
        *,
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
            rollouts=rollouts,
        )
        try:
            with _storing(folder):
                folder.mkdir()
            run = self._run(folder, record)
            run.save()
            run.emit("state", {"state": record.state, "before": None, "reason": ""})
        except StorageError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._runs[run_id] = run
        return run

    def _run(self, folder: Path, record: RunRecord) -> Run:
        return Run(folder, record, storage=self._storage_of(record.id) if self._storage_of else None)

    def get(self, run_id: str) -> Run:
        try:
            return self._runs[run_id]
        except KeyError:
            raise NotFound(f"there is no run {run_id!r}; GET /v1/runs lists them") from None

    def all(self) -> Sequence[Run]:
        return list(self._runs.values())

    def by_idempotency_key(self, key: str) -> Run | None:
        return next((run for run in self._runs.values() if key and run.record.idempotency_key == key), None)


def _read_record(path: Path) -> RunRecord | None:
    """The record of a run; None, and a word in the log, for one that cannot be read: the others must be served."""
    try:
        return RunRecord.model_validate_json(path.read_bytes())
    except (OSError, ValidationError, SynclineError) as error:  # the spec in it checks itself, and raises InvalidSpec
        log.error("run_record_unreadable", path=str(path), error=str(error), do="mend the file or move its folder away")
        return None


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSON lines file; a last line that a crash cut short is dropped, as it was never answered for."""
    if not path.is_file():
        return []
    rows: list[dict[str, Any]] = []
    whole = 0
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            row = json.loads(line)
        except ValueError:
            break
        if not line.endswith(b"\n"):
            break
        rows.append(row)
        whole += len(line)
    if whole < path.stat().st_size:
        os.truncate(path, whole)  # not rewritten: the disk may be full
    return rows


def _append(path: Path, data: bytes) -> None:
    """Append all of `data` or nothing. Raises OSError."""
    with path.open("ab", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        try:
            written = 0
            while written < len(data):
                written += file.write(data[written:])
        except OSError:
            file.truncate(size)
            raise


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


@contextmanager
def _storing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        remedy = "free space or mend the storage, then resume the run"
        raise StorageError(f"{path} could not be written: {why}; {remedy}") from error
