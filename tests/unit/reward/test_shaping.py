"""Shaping: hand-computed values, and who is shaped."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from services.reward.scorer import Scorer
from services.reward.shaping import length_penalty, overlong_penalty, shaped
from services.reward.verdicts import Item, Verdict
from syncline.rewardspec import LengthPenalty, OverlongPenalty, RewardSpec
from syncline.v1 import rollout_pb2 as pb


def test_the_length_penalty_takes_a_share_for_each_token() -> None:
    assert length_penalty(1.0, tokens=200, per_token=0.001) == pytest.approx(0.8)
    assert length_penalty(1.0, tokens=0, per_token=0.001) == 1.0


@pytest.mark.parametrize(("tokens", "score"), [(0, 1.0), (80, 1.0), (90, 0.75), (100, 0.5)])
def test_the_overlong_penalty_rises_over_the_margin(tokens: int, score: float) -> None:
    assert overlong_penalty(1.0, tokens=tokens, max_tokens=100, margin=20, weight=0.5) == pytest.approx(score)


def test_shapings_add_up_in_order() -> None:
    both = [LengthPenalty(type="length", per_token=0.01), OverlongPenalty(type="overlong", margin=10)]
    assert shaped(1.0, both, tokens=95, max_tokens=100) == pytest.approx(1.0 - 0.95 - 0.5)
    assert shaped(0.3, [], tokens=95, max_tokens=100) == 0.3


async def test_without_max_tokens_an_overlong_penalty_is_left_out_and_told() -> None:
    scorer = Scorer({"math": Fixed(Verdict("scored", score=1.0), Verdict("timeout", score=0.0, cause="slow"))})
    shaping = [{"type": "length", "per_token": 0.1}, {"type": "overlong", "margin": 4}]
    spec = scorer.route(json.dumps({"type": "math", "shaping": shaping}))
    right, wrong = await scorer.score(spec, [Item("", "2", "1", tokens=5)] * 2)
    assert (right.score, right.cause) == (pytest.approx(0.5), "overlong penalty left out: max_tokens not known")
    assert (wrong.score, wrong.cause) == (pytest.approx(-0.5), f"slow; {right.cause}")


async def test_without_tokens_every_shaping_is_left_out_and_told() -> None:
    scorer = Scorer({"math": Fixed(Verdict("scored", score=1.0), Verdict("unparsable", score=0.0))})
    shaping = [{"type": "length", "per_token": 0.1}, {"type": "overlong", "margin": 4}]
    spec = scorer.route(json.dumps({"type": "math", "shaping": shaping}))
    right, empty = await scorer.score(spec, [Item("", "2", "2", max_tokens=9), Item("", "", "2", max_tokens=9)])
    told = "length penalty left out: tokens not known; overlong penalty left out: tokens not known"
    assert (right.score, right.cause) == (1.0, told)
    assert empty.cause == "", "an empty completion has no tokens, which is known"


class Fixed:
    """Gives the verdicts that it was made with."""

    def __init__(self, *verdicts: Verdict) -> None:
        self._verdicts = verdicts

    async def score(self, spec: RewardSpec, items: Sequence[Item]) -> list[Verdict]:
        return list(self._verdicts)


async def test_a_wrong_answer_is_shaped_like_a_right_one_and_what_has_no_score_is_not() -> None:
    given = (
        Verdict("scored", score=1.0),
        Verdict("unparsable", score=0.0),
        Verdict("timeout", score=0.0),
        Verdict("unparsable", score=None, cause="no judgment"),
        Verdict("unavailable", cause="down"),
    )
    scorer = Scorer({"math": Fixed(*given)})
    spec = scorer.route(json.dumps({"type": "math", "shaping": [{"type": "length", "per_token": 0.1}]}))
    item = Item("", "", "1", tokens=5, max_tokens=10)
    verdicts = [one.to_message() for one in await scorer.score(spec, [item] * len(given))]
    assert [one.score for one in verdicts[:3]] == [pytest.approx(0.5), pytest.approx(-0.5), pytest.approx(-0.5)]
    assert [one.raw_score for one in verdicts[:3]] == [1.0, 0.0, 0.0]
    assert [one.HasField("score") for one in verdicts] == [True, True, True, False, False]
    assert verdicts[4].status == pb.VERDICT_STATUS_UNAVAILABLE
