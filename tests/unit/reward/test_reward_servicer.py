"""What a caller of Score means."""

from __future__ import annotations

from services.reward.servicer import _item
from syncline.v1 import reward_service_pb2 as pb


def test_an_empty_answer_of_the_seed_is_an_answer() -> None:
    assert _item(pb.ScoreItem(completion="red", seed_answer="")).seed_answer == ""
    assert _item(pb.ScoreItem(completion="red")).seed_answer is None
