"""Evaluations of one run: which are due, their tasks out, their scores in.

An evaluation of version v is a window of its own on v's prompt stream. Its groups come back on a
stream that only the coordinator reads, so nothing of it ever reaches the learner.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from redis.asyncio import Redis

from services.coordinator.admission import evaluation_tasks
from services.coordinator.prompts import PlannedPrompt
from syncline import keys
from syncline.runspec import Evaluation, RunSpec
from syncline.streams import StreamConsumer, Streams
from syncline.v1.rollout_pb2 import PromptTask, ScoredGroup, VerdictStatus


@dataclass(slots=True)
class _Pending:
    """One set on one version, until all its groups are in."""

    evaluation: Evaluation
    version: int
    tasks: Sequence[PromptTask]
    started_at: float = field(default_factory=time.time)
    scores: dict[int, list[float]] = field(default_factory=dict)
    lengths: list[int] = field(default_factory=list)
    verdicts: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)

    @property
    def complete(self) -> bool:
        return len(self.scores) + sum(self.dropped.values()) == len(self.tasks)


def due_sets(spec: RunSpec, version: int) -> list[Evaluation]:
    """Sets to evaluate at a version: all of them before and after the run, in between by `every`."""
    return [
        evaluation
        for evaluation in spec.evaluation
        if version in (0, spec.steps) or (evaluation.every is not None and version % evaluation.every == 0)
    ]


class Evaluator:
    """Runs the evaluations of one run."""

    def __init__(
        self,
        redis: Redis,
        *,
        run_id: str,
        spec: RunSpec,
        prompts: Mapping[str, Sequence[PlannedPrompt]],
        consumer: str,
        lease_s: float,
    ) -> None:
        self._streams = Streams(redis)
        self._run_id = run_id
        self._spec = spec
        self._prompts = prompts
        self._done: set[tuple[str, int]] = set()
        self._pending: dict[tuple[str, int], _Pending] = {}
        self._consumer = StreamConsumer(
            redis,
            stream=keys.evaluated(run_id),
            group=keys.COORDINATOR_GROUP,
            consumer=consumer,
            run_id=run_id,
            lease_s=lease_s,
        )

    @property
    def versions(self) -> frozenset[int]:
        """Versions with an evaluation under way."""
        return frozenset(version for _, version in self._pending)

    def restart(self, *, done: Sequence[Mapping[str, Any]]) -> None:
        """Forget what is under way; `done` are the rows of evaluations that need not be made again."""
        self._pending.clear()
        self._done = {(row["name"], row["version"]) for row in done}

    async def start(self, version: int) -> None:
        """Send out what is due at a published version and not done yet."""
        for evaluation in due_sets(self._spec, version):
            key = (evaluation.name, version)
            if key in self._done or key in self._pending:
                continue
            tasks = list(
                evaluation_tasks(
                    self._spec, evaluation, self._prompts[evaluation.name], run_id=self._run_id, version=version
                )
            )
            self._pending[key] = _Pending(evaluation, version, tasks)
            await self._send(self._pending[key])

    async def send_again(self) -> None:
        """Send what has no result yet once more, after Redis lost it; results that come twice count once."""
        for pending in self._pending.values():
            await self._send(pending)

    async def collect(self, *, wait_s: float) -> list[dict[str, Any]]:
        """Take in results; returns the evaluations that they complete, as rows for people."""
        entries = await self._consumer.take(64, wait_s=wait_s)
        for entry in entries:
            self.take_in(ScoredGroup.FromString(entry.payload))
        await self._consumer.ack(entries)
        complete = [key for key, pending in self._pending.items() if pending.complete]
        self._done.update(complete)
        return [_row(self._pending.pop(key)) for key in complete]

    def take_in(self, scored: ScoredGroup) -> None:
        """Count one group, once."""
        key = scored.group.task.key
        pending = self._pending.get((key.evaluation, key.step))
        if pending is None or key.prompt_index in pending.scores:
            return
        if scored.dropped_cause:
            pending.dropped[scored.dropped_cause] += 1
            return
        pending.scores[key.prompt_index] = [verdict.score for verdict in scored.verdicts]
        pending.lengths.extend(len(sample.token_ids) for sample in scored.group.samples)
        pending.verdicts.update(
            VerdictStatus.Name(verdict.status).removeprefix("VERDICT_STATUS_").lower() for verdict in scored.verdicts
        )

    async def _send(self, pending: _Pending) -> None:
        payloads = [task.SerializeToString() for task in pending.tasks if task.key.prompt_index not in pending.scores]
        await self._streams.add_all(keys.prompts(self._run_id, pending.version), run_id=self._run_id, payloads=payloads)


def _row(pending: _Pending) -> dict[str, Any]:
    means = [statistics.fmean(scores) for scores in pending.scores.values()]
    return {
        "name": pending.evaluation.name,
        "version": pending.version,
        "accuracy": statistics.fmean(means) if means else None,
        "prompts": len(means),
        "samples": sum(len(scores) for scores in pending.scores.values()),
        "mean_length": statistics.fmean(pending.lengths) if pending.lengths else None,
        "verdicts": dict(pending.verdicts),
        "dropped": dict(pending.dropped),
        "seconds": time.time() - pending.started_at,
        "finished_at": time.time(),
    }
