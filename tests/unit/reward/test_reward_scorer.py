"""Routing to rewards."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from services.reward.scorer import Scorer
from services.reward.verdicts import Item, Verdict
from syncline.errors import InvalidSpec
from syncline.rewardspec import RewardSpec


class LengthReward:
    """A toy: the length of the completion."""

    async def score(self, spec: RewardSpec, items: Sequence[Item]) -> list[Verdict]:
        return [
            Verdict("scored", score=float(len(item.completion)))
            if item.completion
            else Verdict("unparsable", score=0.0)
            for item in items
        ]


def items(*completions: str) -> list[Item]:
    return [Item(prompt="", completion=completion, answer="") for completion in completions]


async def test_a_new_reward_is_one_entry_of_a_dict() -> None:
    scorer = Scorer({"math": LengthReward()})
    verdicts = await scorer.score(scorer.route('{"type": "math"}'), items("abc", "a"))
    assert [verdict.score for verdict in verdicts] == [3.0, 1.0]


async def test_verdicts_are_counted_by_reward_and_status() -> None:
    scorer = Scorer({"math": LengthReward()})
    await scorer.score(scorer.route('{"type": "math"}'), items("abc", "", "a"))
    assert scorer.verdicts == {"math/scored": 2, "math/unparsable": 1}


def test_a_reward_that_is_not_served_is_refused_with_those_that_are() -> None:
    scorer = Scorer({"math": LengthReward()})
    with pytest.raises(InvalidSpec, match=r"'judge' is not served here; allowed: math"):
        scorer.route('{"type": "judge", "endpoint": "http://judge/v1", "model": "m"}')


@pytest.mark.parametrize("reward_json", ["", "{", "[]", '{"type": "nonsense"}', '{"type": "math", "unknown": 1}'])
def test_a_reward_that_is_no_reward_is_refused(reward_json: str) -> None:
    with pytest.raises(InvalidSpec, match="reward"):
        Scorer({"math": LengthReward()}).route(reward_json)
