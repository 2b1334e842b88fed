"""The reward of an LLM judge: a grade for each answer, or the share of comparisons that it wins.

A judgment that cannot be read is asked for once more with another seed (at temperature 0 it would be the same again).
Those that can be read are averaged. An answer of which nothing can be read is `unparsable` without a score: that is
the judge's failure and not the policy's, so it trains nothing. When the judge is down nothing is averaged at all.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import Any

from services.reward.endpoints import Endpoints, Refused
from services.reward.judges import comparisons, prompts, replies
from services.reward.judges.comparisons import mean
from services.reward.judges.replies import Judgment, Reply
from services.reward.metrics import JUDGMENTS
from services.reward.verdicts import Item, Verdict
from syncline.errors import Unavailable
from syncline.ids import derived_seed
from syncline.rewardspec import JudgeSpec, RewardSpec

Read = Callable[[Reply], Judgment]
Question = tuple[str, str, str, float, float, int, int]
"""Everything that a judgment depends on: endpoint, model, prompt, temperature, top_p, max_tokens, seed."""


class JudgeReward:
    """Asks a judge. Judgments are remembered, so that when a group is tried again only those that failed are asked
    for."""

    def __init__(self, endpoints: Endpoints, *, remembered: int = 16_384) -> None:
        self._endpoints = endpoints
        self._remembered = remembered
        self._known: OrderedDict[Question, Judgment] = OrderedDict()

    async def score(self, spec: RewardSpec, items: Sequence[Item]) -> list[Verdict]:
        assert isinstance(spec, JudgeSpec)
        match spec.mode:
            case "pointwise":
                return list(await asyncio.gather(*(self._grade(spec, item) for item in items)))
            case "pairwise":
                return await self._rank(spec, items)
            case "versus_seed":
                return list(await asyncio.gather(*(self._against_seed(spec, item) for item in items)))

    async def _grade(self, spec: JudgeSpec, item: Item) -> Verdict:
        """0 to 10, by itself."""
        started = time.perf_counter()
        prompt = prompts.fill(
            spec.template or prompts.POINTWISE,
            prompt=prompts.conversation(item.messages),
            answer=item.completion,
        )
        judgments = await self._judgments(spec, prompt, replies.score)
        return _verdict(_average(judgments), judgments, seconds=time.perf_counter() - started)

    async def _rank(self, spec: JudgeSpec, items: Sequence[Item]) -> list[Verdict]:
        """The share of comparisons within the group that each answer wins. The verdicts hang together: one comparison
        that nobody answers makes the whole group wait."""
        started = time.perf_counter()
        chance = Random(derived_seed("pivot", *(item.completion for item in items)))
        pairs = comparisons.ordered_pairs(len(items), spec.opponents, chance)
        found = dict(
            zip(
                pairs,
                await asyncio.gather(
                    *(self._compare(spec, items[i], items[i].completion, items[j].completion) for i, j in pairs)
                ),
                strict=True,
            )
        )
        everything = [judgment for judgments in found.values() for judgment in judgments]
        seconds = (time.perf_counter() - started) / max(1, len(items))
        if any(judgment.outcome == "unavailable" for judgment in everything):
            return [_verdict(None, everything, seconds=seconds) for _ in items]
        shares = comparisons.shares_won(len(items), {pair: _average(found[pair]) for pair in pairs})
        own = [[one for pair in pairs if index in pair for one in found[pair]] for index in range(len(items))]
        return [_verdict(share, judgments, seconds=seconds) for share, judgments in zip(shares, own, strict=True)]

    async def _against_seed(self, spec: JudgeSpec, item: Item) -> Verdict:
        """The share of comparisons with the seed model's answer that the answer wins, both orders."""
        if item.seed_answer is None:
            return Verdict("scored", score=replies.TIE, cause="the seed itself")
        if item.seed_answer == item.completion:
            return Verdict("scored", score=replies.TIE, cause="the seed's answer")  # both orders ask the same
        started = time.perf_counter()
        forth, back = await asyncio.gather(
            self._compare(spec, item, item.completion, item.seed_answer),
            self._compare(spec, item, item.seed_answer, item.completion),
        )
        share, _ = comparisons.shares_won(2, {(0, 1): _average(forth), (1, 0): _average(back)})
        return _verdict(share, [*forth, *back], seconds=time.perf_counter() - started)

    async def _compare(self, spec: JudgeSpec, item: Item, first: str, second: str) -> list[Judgment]:
        prompt = prompts.fill(
            spec.template or prompts.COMPARISON,
            prompt=prompts.conversation(item.messages),
            first=first,
            second=second,
        )
        return await self._judgments(spec, prompt, replies.first_wins)

    async def _judgments(self, spec: JudgeSpec, prompt: str, read: Read) -> list[Judgment]:
        return list(await asyncio.gather(*(self._judgment(spec, prompt, read, i) for i in range(spec.judgments))))

    async def _judgment(self, spec: JudgeSpec, prompt: str, read: Read, index: int) -> Judgment:
        """One judgment; one that cannot be read gets a second chance."""
        judgment = await self._ask(spec, prompt, read, seed=_seed(prompt, index, 0))
        if judgment.outcome in ("read", "unavailable", "too_long") or spec.temperature == 0.0:
            return judgment
        return await self._ask(spec, prompt, read, seed=_seed(prompt, index, 1))

    async def _ask(self, spec: JudgeSpec, prompt: str, read: Read, *, seed: int) -> Judgment:
        question = (spec.endpoint, spec.model, prompt, spec.temperature, spec.top_p, spec.max_tokens, seed)
        if question in self._known:
            self._known.move_to_end(question)
            return self._known[question]
        body = {
            "model": spec.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": spec.temperature,
            "top_p": spec.top_p,
            "max_tokens": spec.max_tokens,
            "seed": seed,
        }
        try:
            url = f"{spec.endpoint.rstrip('/')}/chat/completions"
            judgment = read(await self._endpoints.post(spec, url, body, read=_reply))
        except Refused as refused:
            judgment = Judgment(refused.why, cause=refused.cause)
        except Unavailable as error:
            judgment = Judgment("unavailable", cause=error.message)
        JUDGMENTS.labels(spec.type, judgment.outcome).inc()
        if judgment.outcome != "unavailable":
            self._known[question] = judgment
            if len(self._known) > self._remembered:
                self._known.popitem(last=False)
        return judgment


def _seed(prompt: str, index: int, attempt: int) -> int:
    """31 bits, as some servers take no more. The same question gets the same seed, whoever asks and when."""
    return derived_seed("judgment", prompt, index, attempt) >> 32


def _reply(answer: Any) -> Reply:
    """The first choice of a chat completion. Raises KeyError and the like when it is none."""
    choice = answer["choices"][0]
    message = choice["message"]
    text = message.get("content") or ""
    if not isinstance(text, str):
        raise TypeError("content is no text")
    return Reply(text, finished=choice["finish_reason"] or "stop", refused=bool(message.get("refusal")))


def _average(judgments: Iterable[Judgment]) -> float | None:
    return mean([judgment.value for judgment in judgments if judgment.value is not None])


def _verdict(value: float | None, judgments: Sequence[Judgment], *, seconds: float) -> Verdict:
    """What the judgments of one answer come to; the cause names those that could not be read."""
    for judgment in judgments:
        if judgment.outcome == "unavailable":
            return Verdict("unavailable", cause=judgment.cause, seconds=seconds)
    lost = Counter(judgment.outcome for judgment in judgments if judgment.value is None)
    cause = ", ".join(f"{outcome} {count}" for outcome, count in sorted(lost.items()))
    if words := next((judgment.cause for judgment in judgments if judgment.cause), ""):
        cause = f"{cause} ({words})"
    if value is not None:
        return Verdict("scored", score=value, cause=f"not read: {cause}" if lost else "", seconds=seconds)
    return Verdict("unparsable", score=None, cause=f"no judgment: {cause or 'nobody to compare with'}", seconds=seconds)
