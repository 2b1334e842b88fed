"""What goes into a reward and what comes out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from syncline.errors import FieldProblem, InvalidSpec
from syncline.rewardspec import RewardSpec
from syncline.v1 import rollout_pb2 as pb
from syncline.wire_names import VERDICT_STATUS, VerdictName


@dataclass(frozen=True, slots=True)
class Item:
    """One completion to score."""

    prompt: str
    completion: str
    answer: str
    """Gold answer; empty where the reward needs none."""
    messages: tuple[Mapping[str, str], ...] = ()
    """The prompt as a conversation, for rewards that chat."""
    tokens: int = 0
    max_tokens: int = 0
    """Tokens of the completion and the most it may have, for shaping."""
    seed_answer: str | None = None
    """The seed model's answer; None where there is none to compare with."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of the attempt to score a sample. Only `unavailable` is worth another attempt."""

    status: VerdictName
    score: float | None = None
    """None: there is no number, and the sample trains nothing. Unparsable and timeout are 0 by a verifier, which
    says that the answer is wrong, and None by a judge or a reward model, which says nothing of the answer."""
    raw_score: float = 0.0
    """The score before shaping."""
    cause: str = ""
    """Why, in a few words; empty for an ordinary score."""
    seconds: float = 0.0

    def to_message(self) -> pb.Verdict:
        return pb.Verdict(
            status=VERDICT_STATUS[self.status],
            score=self.score,
            raw_score=self.raw_score,
            cause=self.cause,
            seconds=self.seconds,
        )


def messages_of(messages_json: str, *, prompt_text: str) -> tuple[Mapping[str, str], ...]:
    """The conversation of a prompt; a prompt without one is a single user message. Raises InvalidSpec."""
    if not messages_json:
        return ({"role": "user", "content": prompt_text},)
    try:
        return tuple({"role": str(one["role"]), "content": str(one["content"])} for one in json.loads(messages_json))
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidSpec(
            [FieldProblem("messages_json", f"no messages ({error})", 'a JSON list of {"role", "content"}')]
        ) from None


class Reward(Protocol):
    """One kind of reward. Items may share work; verdicts come back in order, one per item."""

    async def score(self, spec: RewardSpec, items: Sequence[Item]) -> list[Verdict]:
        """Raises InvalidSpec when the data is wrong (a gold answer that nobody can read).

        What is only down at the moment is an `unavailable` verdict; it never becomes a number.
        """
        ...
