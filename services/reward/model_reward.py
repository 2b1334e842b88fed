"""The reward of a sequence-classification model: one number for a conversation and its answer, as the model gives it.

The model is served by vLLM's pooling runner, whose /classify applies the model's own chat template to messages. Without
`use_activation: false` it would answer sigmoid(score), which flattens exactly the differences that rewards are made of.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from services.reward.endpoints import Endpoints, Refused
from services.reward.metrics import JUDGMENTS
from services.reward.verdicts import Item, Verdict
from syncline.errors import Unavailable
from syncline.rewardspec import ModelSpec, RewardSpec


class ModelReward:
    """Asks a reward model for each answer."""

    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints

    async def score(self, spec: RewardSpec, items: Sequence[Item]) -> list[Verdict]:
        assert isinstance(spec, ModelSpec)
        return list(await asyncio.gather(*(self._score(spec, item) for item in items)))

    async def _score(self, spec: ModelSpec, item: Item) -> Verdict:
        """An input that the model has no room for gets no score: a part of an answer says nothing of the whole."""
        started = time.perf_counter()
        body = {
            "model": spec.model,
            "messages": [*item.messages, {"role": "assistant", "content": item.completion}],
            "use_activation": False,
        }
        try:
            url = f"{spec.endpoint.rstrip('/').removesuffix('/v1')}/classify"
            numbers = await self._endpoints.post(spec, url, body, read=_numbers)
            verdict = _verdict(numbers)
        except Refused as refused:
            verdict = Verdict("unparsable", score=None, cause=f"{refused.why}: {refused.cause}")
        except Unavailable as error:
            verdict = Verdict("unavailable", cause=error.message)
        outcome = verdict.cause.partition(":")[0] if verdict.status == "unparsable" else verdict.status
        JUDGMENTS.labels(spec.type, outcome).inc()
        return replace(verdict, seconds=time.perf_counter() - started)


def _numbers(answer: Any) -> list[float]:
    """What the head says. Raises KeyError and the like when the answer is no classification."""
    return [float(number) for number in answer["data"][0]["probs"]]


def _verdict(numbers: Sequence[float]) -> Verdict:
    if len(numbers) != 1:
        raise Unavailable(f"the model has {len(numbers)} classes; name a reward model, whose head has one")
    if not math.isfinite(numbers[0]):
        return Verdict("unparsable", score=None, cause=f"not_finite: the model gave {numbers[0]}")
    return Verdict("scored", score=numbers[0])
