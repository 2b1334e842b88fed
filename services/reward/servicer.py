"""gRPC adapter of the reward service: decodes, calls, encodes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from services.reward.scorer import Scorer
from services.reward.verdicts import Item, messages_of
from services.reward.verifiers.pool import VerifierPool
from syncline.errors import FieldProblem, InvalidSpec, PeerTimeout, Unavailable
from syncline.rpc import Context
from syncline.v1 import reward_service_pb2 as pb
from syncline.v1.reward_service_pb2_grpc import RewardServiceServicer

MAX_ITEMS = 4096
_LONGEST_S = 600.0
"""Deadline of a call whose client set none."""


class RewardServicer(RewardServiceServicer):
    """Scores what a caller sends, beside the stream and through the same rewards."""

    def __init__(self, scorer: Scorer, *, pool: VerifierPool, member_id: str, error: Callable[[], str]) -> None:
        self._scorer = scorer
        self._pool = pool
        self._member_id = member_id
        self._error = error

    async def Score(self, request: pb.ScoreRequest, context: Context) -> pb.ScoreResponse:
        if not self._pool.ready.is_set():
            raise Unavailable(f"the verifier is not up; {self._pool.error or 'it is starting'}")
        spec = self._scorer.route(request.reward_json)
        if len(request.items) > MAX_ITEMS:
            raise InvalidSpec([FieldProblem("items", f"{len(request.items)} items", f"at most {MAX_ITEMS} a call")])
        items = [_item(item) for item in request.items]
        remaining_s = context.time_remaining()
        seconds = _LONGEST_S if remaining_s is None else min(remaining_s, _LONGEST_S)
        try:
            async with asyncio.timeout(seconds):
                verdicts = await self._scorer.score(spec, items)
        except TimeoutError:
            raise PeerTimeout(f"{len(items)} items were not scored in {seconds:.3g} s") from None
        return pb.ScoreResponse(verdicts=[verdict.to_message() for verdict in verdicts])

    async def GetStatus(
        self, request: pb.RewardServiceGetStatusRequest, context: Context
    ) -> pb.RewardServiceGetStatusResponse:
        return pb.RewardServiceGetStatusResponse(
            id=self._member_id,
            rewards=self._scorer.offers,
            workers=len(self._pool.pids),
            verdicts_total=dict(self._scorer.verdicts),
            error=self._error(),
        )


def _item(item: pb.ScoreItem) -> Item:
    return Item(
        item.prompt_text,
        item.completion,
        item.answer,
        messages=messages_of(item.messages_json, prompt_text=item.prompt_text),
        tokens=item.tokens,
        max_tokens=item.max_tokens,
        seed_answer=item.seed_answer if item.HasField("seed_answer") else None,
    )
