"""Work that was given up must not leave the learner waiting: it becomes a dropped group, counted by cause."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from google.protobuf.message import DecodeError
from redis.asyncio import Redis

from syncline import keys
from syncline.errors import RunFailed
from syncline.v1.rollout_pb2 import PromptTask, RolloutGroup, ScoredGroup


class DeadLetters:
    """Follows one run's dead-letter stream for one attempt. Entries stay there for people to look at."""

    def __init__(self, redis: Redis, run_id: str) -> None:
        self._redis = redis
        self._stream = keys.dead(run_id)
        self._last_id = ""

    async def skip(self) -> None:
        """What was given up until now is of earlier attempts, and is tried anew."""
        newest: Any = await self._redis.xrevrange(self._stream, count=1)
        self._last_id = newest[0][0].decode() if newest else ""

    async def replace(self, hand_over: Callable[[ScoredGroup], Awaitable[None]]) -> None:
        """Hand over a group without samples, with its cause, for each that was given up since; none is lost, and one
        comes twice, when Redis fails meanwhile."""
        since = f"({self._last_id}" if self._last_id else "-"
        entries: Any = await self._redis.xrange(self._stream, min=since)
        for id, fields in entries:
            stream, cause = fields[b"stream"].decode(), fields[b"cause"].decode()
            task = _task(stream, fields[b"p"], cause)
            await hand_over(ScoredGroup(group=RolloutGroup(task=task), dropped_cause=_short(stream, cause)))
            self._last_id = id.decode()


def _task(stream: str, payload: bytes, cause: str) -> PromptTask:
    try:
        if stream == keys.ROLLOUTS:
            return RolloutGroup.FromString(payload).task
        if stream.startswith(f"{keys.PREFIX}:prompts:"):
            return PromptTask.FromString(payload)
        return ScoredGroup.FromString(payload).group.task
    except DecodeError as error:
        raise RunFailed(
            f"an entry of {stream} cannot be read ({cause}); it names no prompt, so its step cannot end"
        ) from error


def _short(stream: str, cause: str) -> str:
    """A cause that can be counted: the stage, and what kind of end it was."""
    stage = "scoring" if stream == keys.ROLLOUTS else "generating" if ":prompts:" in stream else "training"
    return f"{stage}: {cause.partition(';')[0].partition(':')[0]}"
