"""Work that was given up, on a real server: the learner is told once whatever happens, and of this attempt only."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from services.coordinator.control.dead_letters import DeadLetters
from syncline import keys
from syncline.streams import StreamConsumer, Streams
from syncline.v1.rollout_pb2 import PURPOSE_TRAINING, PromptTask, ScoredGroup, TaskKey

RUN = "run-1"


async def _give_up(redis: Redis, *, prompt_index: int) -> None:
    """A generator cannot work on a prompt, again and again."""
    task = PromptTask(key=TaskKey(run_id=RUN, step=6, prompt_index=prompt_index), purpose=PURPOSE_TRAINING)
    await Streams(redis).open_run(RUN)
    await Streams(redis).add(keys.prompts(RUN, 0), run_id=RUN, payload=task.SerializeToString())
    consumer = StreamConsumer(
        redis, stream=keys.prompts(RUN, 0), group=keys.INFERENCE_GROUP, consumer="g", run_id=RUN, lease_s=5
    )
    for _ in range(3):
        (entry,) = await consumer.take(1, wait_s=1)
        await consumer.fail(entry, cause="engine_error: out of memory")


async def _replaced(letters: DeadLetters) -> list[int]:
    """Prompts of the groups that take the place of what was given up since."""
    found: list[int] = []

    async def hand_over(scored: ScoredGroup) -> None:
        assert scored.dropped_cause == "generating: engine_error"
        found.append(scored.group.task.key.prompt_index)

    await letters.replace(hand_over)
    return found


async def test_what_was_given_up_is_replaced_once(redis: Redis) -> None:
    letters = DeadLetters(redis, RUN)
    await letters.skip()
    await _give_up(redis, prompt_index=3)
    assert await _replaced(letters) == [3]
    await _give_up(redis, prompt_index=4)
    assert await _replaced(letters) == [4]
    assert await _replaced(letters) == []


async def test_a_group_that_could_not_be_handed_over_comes_again(redis: Redis) -> None:
    letters = DeadLetters(redis, RUN)
    for prompt_index in (3, 4):
        await _give_up(redis, prompt_index=prompt_index)

    async def away(scored: ScoredGroup) -> None:
        raise ConnectionError("reset by peer")

    with pytest.raises(ConnectionError):
        await letters.replace(away)
    assert await _replaced(letters) == [3, 4]


async def test_what_an_earlier_attempt_gave_up_is_tried_anew(redis: Redis) -> None:
    """Its operator has mended the generator, and the prompt lies on the stream again."""
    await _give_up(redis, prompt_index=3)
    letters = DeadLetters(redis, RUN)
    await letters.skip()
    assert await _replaced(letters) == []
