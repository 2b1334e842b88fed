"""One run as the coordinator keeps it: what was asked, what happened, what came out.

A folder of its own: `run.json` (the record, replaced atomically), and a series of JSON lines each for events, steps,
evaluations and samples. Only the methods of `Run` change a record.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import structlog
from pydantic import BaseModel, ConfigDict

from services.coordinator.records import series
from services.coordinator.records.series import SERIES, Row, Series
from services.coordinator.work.rollout_file import Origin
from syncline import durable
from syncline.bell import Bell
from syncline.errors import FieldProblem, StorageError
from syncline.runspec import RunSpec
from syncline.state import RunEvent, RunState, transition
from syncline.storage import FolderStorage, Storage

log = structlog.get_logger()
RECORD = "run.json"


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
    data: dict[str, str] = {}
    """SHA-256 of the prompts and answers in each file of the spec, by field."""
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
        self.waits_for: Run | None = None
        """The run that has the fleet while this one is pending."""
        self.lent: frozenset[int] = frozenset()
        """Versions that other runs start from, as far as they may still ask for them."""
        self.series: dict[Series, list[Row]] = {name: series.read(series.file_of(folder, name)) for name in SERIES}
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

    @property
    def reason(self) -> str:
        """Why it is in its state, in words."""
        ahead = self.waits_for
        if self.state is RunState.PENDING and ahead is not None and not ahead.state.terminal:
            return f"waits for {ahead.id} ({ahead.state.value})"
        return self.record.reason

    def save(self) -> None:
        """Write the record. Raises StorageError."""
        path = self.folder / RECORD
        with series.storing(path):
            durable.write_text(path, self.record.model_dump_json(indent=1) + "\n")

    def change_period(self, spec: RunSpec) -> None:
        """Record what `RunSpec.with_period` made of the spec, so that a resumed run follows the same schedule."""
        if spec == self.spec:
            return
        self.record.spec = spec
        self.save()
        last = spec.sync.changes[-1]
        self.emit("period", {"from_step": max(last.step, spec.schedule().last_start), "period": last.period})

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

    def say(self, reason: str) -> None:
        """Why it is as it is, while it stays in its state; the next change of state says something else."""
        self.record.reason = reason

    def forget_pause(self) -> None:
        """Nobody holds the run any more, whose attempt was lost in the pause. Raises StorageError."""
        self.record.paused = False
        self.save()

    def begin_attempt(self) -> None:
        self.record.attempts += 1

    def skip_prompts(self, too_long: dict[str, int]) -> None:
        """`too_long` counts by task the prompts that the model cannot take."""
        self.record.skipped_prompts = too_long

    def add_seconds(self, phase: str, seconds: float) -> None:
        """Add to the time spent in a phase."""
        self.record.phase_seconds[phase] = self.record.phase_seconds.get(phase, 0.0) + seconds

    def hold_versions(self, versions: Iterable[int]) -> None:
        """These are published, and no others."""
        self.record.published = sorted(versions)

    def publish(self, version: int, *, digest: str) -> None:
        """A version is published. Raises StorageError."""
        self.hold_versions({*self.record.published, version})
        self.save()
        self.emit("checkpoint", {"version": version, "digest": digest})

    def sync(self, version: int, *, at_step: int) -> None:
        """The generators are told to serve other weights for training. Raises StorageError."""
        self.record.version = version
        self.record.syncs += 1
        self.emit("sync", {"version": version, "step": at_step})

    def reach(self, step: int) -> None:
        """So many updates are made."""
        self.record.step = step

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

    def withdraw(self, path: str) -> None:
        """Forget the warnings of a path, which no longer hold."""
        self.record.warnings = [one for one in self.record.warnings if one["path"] != path]
        self.save()

    def append(self, name: Series, *rows: Row) -> None:
        """Append rows to a series, all or none, and ring the bell. Raises StorageError."""
        if not rows:
            return
        series.append(series.file_of(self.folder, name), rows)
        self.series[name].extend(rows)
        self.changed.ring()

    def rewind(self, step: int) -> None:
        """Forget what came of `step` and later ones: an attempt that goes on from a saved state makes it again.

        What happened all the same stays: events, syncs, seconds.
        """
        steps_behind: dict[Series, Callable[[Row], int]] = {
            "steps": lambda row: row["step"] + 1,
            "samples": lambda row: row["step"] + 1,
            "evaluations": lambda row: row["version"],
        }
        for name, needed in steps_behind.items():
            kept = [row for row in self.series[name] if needed(row) <= step]
            if len(kept) < len(self.series[name]):
                series.rewrite(series.file_of(self.folder, name), kept)
                self.series[name] = kept
        self.reach(step)
