"""A reward model over real HTTP."""

from __future__ import annotations

import pytest

from services.reward.endpoints import Endpoints
from services.reward.model_reward import ModelReward
from syncline.rewardspec import ModelSpec
from tests.integration.judging import items, numbers
from tests.integration.scripted_openai import ScriptedServer, answer, error, scripted


def reward_model(server: ScriptedServer) -> ModelSpec:
    return ModelSpec(type="reward_model", endpoint=server.address, model="m", timeout_s=5.0)


def classified(*numbers: float) -> bytes:
    return answer(200, {"data": [{"index": 0, "label": "LABEL_0", "probs": numbers, "num_classes": len(numbers)}]})


async def test_a_reward_model_gets_the_conversation_and_its_raw_score_is_kept(endpoints: Endpoints) -> None:
    async with scripted(lambda _: classified(-7.25)) as server:
        assert numbers(await ModelReward(endpoints).score(reward_model(server), items("red"))) == [("scored", -7.25)]
    (request,) = server.requests
    assert request.path == "/classify"
    assert request.body["use_activation"] is False
    assert request.body["messages"] == [
        {"role": "user", "content": "Name a colour."},
        {"role": "assistant", "content": "red"},
    ]


@pytest.mark.parametrize(
    ("reply", "status", "cause"),
    [
        (error(400, "This model's maximum context length is 64 tokens"), "unparsable", "too_long: This model's"),
        (answer(200, '{"data": [{"probs": [NaN]}]}'), "unparsable", "not_finite: the model gave nan"),
        (classified(0.1, 0.9), "unavailable", "the model has 2 classes; name a reward model"),
        (error(404, "The model `m` does not exist."), "unavailable", "check reward.endpoint and reward.model"),
    ],
)
async def test_what_a_reward_model_cannot_score_is_told_and_never_a_number(
    endpoints: Endpoints, reply: bytes, status: str, cause: str
) -> None:
    async with scripted(lambda _: reply) as server:
        (verdict,) = await ModelReward(endpoints).score(reward_model(server), items("red"))
    assert verdict.status == status
    assert cause in verdict.cause
    assert not verdict.to_message().HasField("score")
