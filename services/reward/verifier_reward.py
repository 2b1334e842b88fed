"""The reward of verifiable tasks: a verifier of the registry says what a completion is worth."""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import structlog

from services.reward.metrics import CHECK_SECONDS
from services.reward.verdicts import Item, Verdict
from services.reward.verifiers.pool import VerifierPool
from services.reward.verifiers.registry import VERIFIERS
from services.reward.verifiers.verifier import Verifier
from services.reward.verifiers.wire import Outcome, Question
from syncline.errors import FieldProblem, InvalidSpec, Unavailable
from syncline.rewardspec import RewardSpec, VerifierSpec

log = structlog.get_logger()

_REMEMBERED_CHARS = 256
"""Longer questions are not remembered: they hardly repeat, and memory must stay small."""


@dataclass(frozen=True, slots=True)
class _Chosen:
    """The verifier that a run spec's reward names."""

    name: str
    verifier: Verifier
    options: str


class Verification:
    """Asks the pool, and each question once: samples of a group, and a small model's answers, repeat."""

    def __init__(
        self, pool: VerifierPool, *, answer_chars: int, completion_chars: int = 65_536, remembered: int = 65_536
    ) -> None:
        self._pool = pool
        self._answer_chars = answer_chars
        self._completion_chars = completion_chars
        self._remembered = remembered
        self._known: OrderedDict[Question, Verdict] = OrderedDict()
        self._asked: dict[Question, asyncio.Future[Outcome]] = {}
        self._bugs: set[str] = set()

    async def score(self, spec: RewardSpec, items: Sequence[Item]) -> list[Verdict]:
        """Raises InvalidSpec when a gold answer cannot be read: no fault of the policy, so it must not train as 0.

        And, also without items, when there is no such verifier or when it does not take these options.
        """
        chosen = _chosen(spec)
        golds = {answer: self._gold(chosen, answer) for answer in {item.answer for item in items}}
        questions = [self._question(chosen, item, gold=golds[item.answer]) for item in items]
        found: dict[Question, Verdict] = {}
        waiting: dict[Question, asyncio.Future[Outcome]] = {}
        for question in questions:
            if question is not None and question not in found and question not in waiting:
                if (known := self._recall(question)) is not None:
                    found[question] = known
                else:
                    waiting[question] = self._ask(question)
        if waiting:
            # Wait, which cancels nothing: another group may wait for the same outcome when this one is given up.
            await asyncio.wait(waiting.values())
        found |= {question: self._verdict(question, outcome) for question, outcome in waiting.items()}
        seconds = CHECK_SECONDS.labels(spec.type)
        for question in waiting:
            if found[question].status != "unavailable":
                seconds.observe(found[question].seconds)
        too_long = Verdict("unparsable", score=0.0, cause=self._too_long(chosen))
        return [too_long if question is None else found[question] for question in questions]

    def _gold(self, chosen: _Chosen, answer: str) -> str:
        """The gold answer of a group as its verifier wants it. Raises InvalidSpec."""
        if chosen.verifier.needs_answer and not answer.strip():
            raise _bad_gold(answer, f"{chosen.name} needs a gold answer")
        gold = chosen.verifier.cut_gold(answer)
        longest = self._longest(chosen)
        if len(gold) > longest:
            raise _bad_gold(gold, f"has {len(gold)} characters, and {longest} are checked")
        return gold

    def _question(self, chosen: _Chosen, item: Item, *, gold: str) -> Question | None:
        """What to ask of one sample; None when it is too long to be looked at."""
        verifier = chosen.verifier
        answer: str | None = item.completion
        if verifier.cut is not None:
            answer = verifier.cut(item.completion, longest=self._answer_chars)
        elif len(item.completion) > self._completion_chars:
            answer = None
        if answer is None:
            return None
        return Question(chosen.name, gold, answer, chosen.options)

    def _longest(self, chosen: _Chosen) -> int:
        """Characters of what is checked: of a part that is cut out, or of a whole completion."""
        return self._answer_chars if chosen.verifier.cut is not None else self._completion_chars

    def _too_long(self, chosen: _Chosen) -> str:
        what = "answer" if chosen.verifier.cut is not None else "completion"
        return f"{what} above {self._longest(chosen)} characters"

    def _recall(self, question: Question) -> Verdict | None:
        verdict = self._known.get(question)
        if verdict is not None:
            self._known.move_to_end(question)
        return verdict

    def _ask(self, question: Question) -> asyncio.Future[Outcome]:
        """The outcome of a question; everybody who asks the same meanwhile gets the same."""
        asked = self._asked.get(question)
        if asked is None:
            asked = self._asked[question] = self._pool.ask(question)
            asked.add_done_callback(lambda _: self._asked.pop(question, None))
        return asked

    def _verdict(self, question: Question, asked: asyncio.Future[Outcome]) -> Verdict:
        try:
            outcome = asked.result()
        except Unavailable as error:
            return Verdict("unavailable", cause=error.message)
        if outcome.status == "gold":
            raise _bad_gold(question.gold, f"cannot be read by {question.verifier}: {outcome.cause}")
        if outcome.bug and outcome.cause not in self._bugs:
            self._bugs.add(outcome.cause)
            log.error("verifier_failed", cause=outcome.cause)
        verdict = Verdict(outcome.status, score=outcome.score, cause=outcome.cause)
        if not outcome.accident and len(question.gold) + len(question.answer) <= _REMEMBERED_CHARS:
            self._known[question] = verdict
            if len(self._known) > self._remembered:
                self._known.popitem(last=False)
        return replace(verdict, seconds=outcome.seconds)


def _chosen(spec: RewardSpec) -> _Chosen:
    if not isinstance(spec, VerifierSpec):
        return _Chosen("math", VERIFIERS["math"], "{}")
    verifier = VERIFIERS.get(spec.name)
    if verifier is None:
        raise InvalidSpec(
            [FieldProblem("reward.name", f"there is no verifier {spec.name!r}", ", ".join(sorted(VERIFIERS)))]
        )
    verifier.read_options(spec.options)
    if verifier.scale == "graded" and spec.scale == "binary":
        raise InvalidSpec([FieldProblem("reward.scale", f"{spec.name} gives graded scores", "graded")])
    return _Chosen(spec.name, verifier, json.dumps(spec.options, sort_keys=True))


def _bad_gold(gold: str, problem: str) -> InvalidSpec:
    allowed = "a gold answer that the verifier can read (math: a number, or LaTeX)"
    return InvalidSpec([FieldProblem("answer", f"{gold[:80]!r} {problem}", allowed)])
