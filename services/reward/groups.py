"""A rollout group as it arrives to be scored, and as it leaves without a score."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import DecodeError

from services.reward.verdicts import Item, messages_of
from syncline.errors import InvalidSpec
from syncline.v1 import rollout_pb2 as pb

GOLD_UNPARSABLE = "scoring: gold_unparsable"


def decoded(payload: bytes) -> pb.RolloutGroup:
    """Raises DecodeError, with the reason, for what is not a whole group."""
    group = pb.RolloutGroup.FromString(payload)
    if not group.task.key.run_id:
        raise DecodeError("it names no run")
    if group.task.purpose not in (pb.PURPOSE_TRAINING, pb.PURPOSE_EVALUATION):
        raise DecodeError("it has no purpose")
    if not group.samples:
        raise DecodeError("it has no samples")
    return group


def items_of(group: pb.RolloutGroup) -> list[Item]:
    """What is to be scored, a sample each. Raises DecodeError where the prompt cannot be read."""
    task = group.task
    try:
        messages = messages_of(task.messages_json, prompt_text=task.prompt_text)
    except InvalidSpec as error:
        raise DecodeError(error.message) from None
    return [
        Item(
            task.prompt_text,
            sample.text,
            task.answer,
            messages=messages,
            tokens=len(sample.token_ids),
            max_tokens=task.sampling.max_tokens,
            seed_answer=task.seed_answers[index] if index < len(task.seed_answers) else None,
        )
        for index, sample in enumerate(group.samples)
    ]


def dropped(group: pb.RolloutGroup) -> pb.ScoredGroup:
    """The group without samples: its gold answer cannot be read, so nothing may be learned from it."""
    without_samples = pb.RolloutGroup(
        task=group.task, generator=group.generator, generate_seconds=group.generate_seconds
    )
    return pb.ScoredGroup(group=without_samples, dropped_cause=GOLD_UNPARSABLE)


def place_of(group: pb.RolloutGroup) -> dict[str, Any]:
    """Where it belongs, for the log."""
    key = group.task.key
    place = {"run": key.run_id, "task": group.task.task, "step": key.step, "prompt_index": key.prompt_index}
    return place | ({"evaluation": key.evaluation} if key.evaluation else {})
