"""Evaluations of one run: which are due, their tasks out, their scores in.

An evaluation of version v is a window of its own on v's prompt stream. Its groups come back on a
stream that only the coordinator reads, so nothing of it ever reaches the learner. Version 0 of a set
goes first: later versions are compared with what the seed model answered.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from services.coordinator.records import answers, findings
from services.coordinator.records.answers import AnsweredPrompt, answered_prompt
from services.coordinator.work.prompt_tasks import evaluation_task
from services.coordinator.work.prompts import PlannedPrompt
from syncline import keys
from syncline.run_parts import Evaluation
from syncline.runspec import RunSpec
from syncline.streams import StreamConsumer, Streams
from syncline.v1.rollout_pb2 import PromptTask, ScoredGroup

_Key = tuple[str, int]


@dataclass(slots=True)
class _Pending:
    """One set on one version, until every prompt is answered or dropped."""

    evaluation: Evaluation
    version: int
    tasks: Mapping[int, PromptTask]
    """By prompt index."""
    seed: Mapping[int, AnsweredPrompt]
    """What version 0 answered; empty while this is version 0."""
    dropped: dict[int, str]
    """Prompt index -> why there is no score."""
    answered: dict[int, AnsweredPrompt] = field(default_factory=dict)
    sent: bool = False
    """Whether Redis has all that is missing, as far as is known."""
    started_at: float = field(default_factory=time.time)

    @property
    def missing(self) -> list[PromptTask]:
        return [task for index, task in self.tasks.items() if index not in self.answered and index not in self.dropped]


class Evaluator:
    """Runs the evaluations of one attempt."""

    def __init__(
        self,
        redis: Redis,
        *,
        run_id: str,
        run_dir: Path,
        spec: RunSpec,
        prompts: Mapping[str, Sequence[PlannedPrompt]],
        done: Sequence[Mapping[str, Any]],
        consumer: str,
        lease_s: float,
    ) -> None:
        """`done` are the rows of evaluations that need not be made again."""
        self._streams = Streams(redis)
        self._run_id = run_id
        self._run_dir = run_dir
        self._spec = spec
        self._prompts = prompts
        self._done: set[_Key] = {
            (row["name"], row["version"])
            for row in done
            if row["version"] > 0 or answers.exist(run_dir, row["name"], 0)
        }
        self._pending: dict[_Key, _Pending] = {}
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

    def unfinished(self, versions: Collection[int]) -> frozenset[int]:
        """Of these versions those with an evaluation under way, or due and not begun."""
        return frozenset(
            version
            for version in versions
            if any((evaluation.name, version) not in self._done for evaluation in self._spec.evaluations_at(version))
        )

    async def start(self, version: int) -> None:
        """Send out what is due at a published version and not done yet; later versions of a set wait for version 0.

        When Redis fails the next call sends all of it again: results that come twice count once.
        """
        for evaluation in self._spec.evaluations_at(version):
            key = (evaluation.name, version)
            if key in self._done or (version > 0 and (evaluation.name, 0) not in self._done):
                continue
            if key not in self._pending:
                seed = await asyncio.to_thread(self._seed_answers, evaluation.name) if version > 0 else {}
                self._pending[key] = self._new(evaluation, version, seed)
            if not self._pending[key].sent:
                await self._send(self._pending[key])

    def lost(self) -> None:
        """Redis has lost what was sent: `start` sends again what has no result yet."""
        for pending in self._pending.values():
            pending.sent = False

    async def collect(self, *, wait_s: float) -> list[dict[str, Any]]:
        """Take in results; returns the evaluations that they complete, as rows for people."""
        entries = await self._consumer.take(64, wait_s=wait_s)
        for entry in entries:
            self.take_in(ScoredGroup.FromString(entry.payload))
        await self._consumer.ack(entries)
        complete = {key: pending for key, pending in self._pending.items() if not pending.missing}
        rows = [await asyncio.to_thread(self._finish, pending) for pending in complete.values()]
        # From here to the caller's record of the rows nothing waits: done means recorded.
        self._done.update(complete)
        for key in complete:
            self._pending.pop(key, None)
        return rows

    def take_in(self, scored: ScoredGroup) -> None:
        """Count one group, once."""
        key = scored.group.task.key
        pending = self._pending.get((key.evaluation, key.step))
        if pending is None or key.prompt_index in pending.answered or key.prompt_index in pending.dropped:
            return
        if scored.dropped_cause:
            pending.dropped[key.prompt_index] = scored.dropped_cause
        else:
            pending.answered[key.prompt_index] = answered_prompt(scored)

    def _new(self, evaluation: Evaluation, version: int, seed: Mapping[int, AnsweredPrompt]) -> _Pending:
        prompts: Sequence[PlannedPrompt] = self._prompts[evaluation.name]
        dropped: dict[int, str] = {}
        seed_texts: dict[int, list[str]] = {}
        if version > 0 and findings.compares_with_seed(evaluation.reward):
            seed_texts = {index: [one.completion for one in prompt.samples] for index, prompt in seed.items()}
            dropped = {prompt.index: "no_seed_answer" for prompt in prompts if prompt.index not in seed}
        tasks = {
            prompt.index: evaluation_task(
                self._spec,
                evaluation,
                prompt,
                run_id=self._run_id,
                version=version,
                seed_answers=seed_texts.get(prompt.index, ()),
                admitted_at=time.time(),
            )
            for prompt in prompts
            if prompt.index not in dropped
        }
        return _Pending(evaluation, version, tasks, seed, dropped)

    async def _send(self, pending: _Pending) -> None:
        payloads = [task.SerializeToString() for task in pending.missing]
        await self._streams.add_all(keys.prompts(self._run_id, pending.version), run_id=self._run_id, payloads=payloads)
        pending.sent = True

    def _seed_answers(self, name: str) -> dict[int, AnsweredPrompt]:
        return {prompt.prompt_index: prompt for prompt in answers.read(self._run_dir, name, 0)}

    def _finish(self, pending: _Pending) -> dict[str, Any]:
        """Keep the answers, and say what they amount to."""
        answers.write(self._run_dir, pending.evaluation.name, pending.version, pending.answered.values())
        return findings.found(
            pending.evaluation,
            version=pending.version,
            prompts=list(pending.answered.values()),
            seed=pending.seed if pending.version > 0 else pending.answered,
            dropped=pending.dropped,
            seconds=time.time() - pending.started_at,
            finished_at=time.time(),
        )
