"""What goes into a reward and what comes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from syncline.rewardspec import RewardSpec
from syncline.v1 import rollout_pb2 as pb

Status = Literal["scored", "unparsable", "timeout", "unavailable"]

_WIRE: dict[Status, pb.VerdictStatus] = {
    "scored": pb.VERDICT_STATUS_SCORED,
    "unparsable": pb.VERDICT_STATUS_UNPARSABLE,
    "timeout": pb.VERDICT_STATUS_TIMEOUT,
    "unavailable": pb.VERDICT_STATUS_UNAVAILABLE,
}


@dataclass(frozen=True, slots=True)
class Item:
    """One completion to score."""

    prompt: str
    completion: str
    answer: str
    """Gold answer; empty where the reward needs none."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of the attempt to score a sample (design, contract 8)."""

    status: Status
    score: float = 0.0
    cause: str = ""
    """Why, in a few words; empty for an ordinary score."""
    seconds: float = 0.0

    def to_message(self) -> pb.Verdict:
        return pb.Verdict(status=_WIRE[self.status], score=self.score, cause=self.cause, seconds=self.seconds)


class Reward(Protocol):
    """One kind of reward. Items may share work; verdicts come back in order, one per item."""

    async def score(self, spec: RewardSpec, items: Sequence[Item]) -> list[Verdict]:
        """Raises InvalidSpec when the data is wrong (a gold answer that nobody can read).

        What is only down at the moment is an `unavailable` verdict; it never becomes a number.
        """
        ...
