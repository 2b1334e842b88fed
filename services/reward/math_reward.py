"""The reward of verifiable tasks: 1 when the completion's answer equals the gold answer, else 0."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

from services.reward.metrics import CHECK_SECONDS
from services.reward.verdicts import Item, Verdict
from services.reward.verifiers.answers import answer_in, gold_in
from services.reward.verifiers.pool import VerifierPool
from syncline.errors import FieldProblem, InvalidSpec, Unavailable
from syncline.rewardspec import RewardSpec

_REMEMBERED_CHARS = 256
"""Longer questions are not remembered: they hardly repeat, and memory must stay small."""

Question = tuple[str, str]
"""Gold answer, and the answer that was cut out of a completion."""


class MathReward:
    """Asks the pool, and each question once: samples of a group, and a small model's answers, repeat."""

    def __init__(self, pool: VerifierPool, *, answer_chars: int, remembered: int = 65_536) -> None:
        self._pool = pool
        self._answer_chars = answer_chars
        self._remembered = remembered
        self._known: OrderedDict[Question, Verdict] = OrderedDict()
        self._asked: dict[Question, asyncio.Task[Verdict]] = {}

    async def score(self, spec: RewardSpec, items: Sequence[Item]) -> list[Verdict]:
        """Raises InvalidSpec when a gold answer cannot be read: no fault of the policy, so it must not train as 0."""
        golds = {item.answer: gold_in(item.answer) for item in items}
        answers = [answer_in(item.completion, longest=self._answer_chars) for item in items]
        questions = [
            (golds[item.answer], answer) if answer is not None else None
            for item, answer in zip(items, answers, strict=True)
        ]
        found = {question: self._recall(question) for question in questions if question is not None}
        missing = [question for question, verdict in found.items() if verdict is None]
        if missing:
            # Shielded: another group may wait for the same question when this one is given up.
            asked = await asyncio.gather(*(asyncio.shield(self._ask(question)) for question in missing))
            found.update(zip(missing, asked, strict=True))
        too_long = Verdict("unparsable", cause=f"answer above {self._answer_chars} characters")
        return [(found[question] if question is not None else None) or too_long for question in questions]

    def _recall(self, question: Question) -> Verdict | None:
        verdict = self._known.get(question)
        if verdict is not None:
            self._known.move_to_end(question)
        return verdict

    def _ask(self, question: Question) -> asyncio.Task[Verdict]:
        """The task that answers a question; everybody who asks the same meanwhile gets the same task."""
        task = self._asked.get(question)
        if task is None:
            task = self._asked[question] = asyncio.create_task(self._check(question))
            task.add_done_callback(lambda _: self._asked.pop(question, None))
        return task

    async def _check(self, question: Question) -> Verdict:
        gold, answer = question
        started = time.perf_counter()
        try:
            outcome = await self._pool.check(gold=gold, answer=answer)
        except Unavailable as error:
            return Verdict("unavailable", cause=error.message)
        seconds = time.perf_counter() - started
        CHECK_SECONDS.labels("math").observe(seconds)
        if outcome.status == "gold":
            raise InvalidSpec(
                [
                    FieldProblem(
                        "answer",
                        f"{gold[:80]!r} cannot be read as mathematics",
                        "a number, or LaTeX as in \\frac{1}{2}",
                    )
                ]
            )
        verdict = Verdict(outcome.status, score=outcome.score, cause=outcome.cause)
        if not outcome.accident and len(gold) + len(answer) <= _REMEMBERED_CHARS:
            self._remember(question, verdict)
        return replace(verdict, seconds=seconds)

    def _remember(self, question: Question, verdict: Verdict) -> None:
        self._known[question] = verdict
        if len(self._known) > self._remembered:
            self._known.popitem(last=False)
