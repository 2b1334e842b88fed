"""Asks a reward service whether it can give the rewards of a run spec: only it knows the options of its verifiers, and
what they make of a gold answer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import structlog

from services.coordinator.work.prompt_file import Row
from syncline.errors import FieldProblem, InvalidSpec, PeerTimeout, Unavailable
from syncline.membership import Member
from syncline.rewardspec import MathSpec, RewardSpec, VerifierSpec
from syncline.rpc import Client
from syncline.runspec import RunSpec
from syncline.v1.reward_service_pb2 import ScoreItem, ScoreRequest
from syncline.v1.reward_service_pb2_grpc import RewardServiceStub

log = structlog.get_logger()
_DEADLINE_S = 10.0
_GOLDS_S = 10.0
"""For the gold answers of a file: what is not checked by then is dropped when it is met, with its cause."""
_GOLDS_A_CALL = 256
_BAD_GOLDS_NAMED = 5

UNCHECKED = FieldProblem("rewards", "were not checked: no reward service answers", "they are checked when one does")


@dataclass(frozen=True, slots=True)
class Checked:
    """What is wrong without being a reason to refuse the run."""

    warnings: Sequence[FieldProblem]
    complete: bool
    """Whether a reward service answered for each reward."""


@dataclass(frozen=True, slots=True)
class _Part:
    """A task or an evaluation set: where it stands in the spec, its reward and its rows."""

    field: str
    reward: RewardSpec
    rows: Sequence[Row]


async def check_rewards(spec: RunSpec, services: Sequence[Member], *, rows: Mapping[str, Sequence[Row]]) -> Checked:
    """`rows` by field ("tasks.0"). Raises InvalidSpec with every problem: a name or options that no service takes, and
    rows without the gold answer that their reward needs."""
    parts = list(_parts(spec, rows))
    if not services and parts:
        return Checked([UNCHECKED], complete=False)
    offered = frozenset(name for member in services for name in member.status.get("rewards", ()))
    problems = [problem for part in parts for problem in not_offered(part.field, part.reward, offered)]
    found = await asyncio.gather(*(_check(part, services) for part in parts), return_exceptions=True)
    warnings: list[FieldProblem] = []
    complete = True
    for one in found:
        if isinstance(one, InvalidSpec):
            problems.extend(one.problems)
        elif isinstance(one, BaseException):
            raise one
        elif one is None:
            complete = False
        else:
            warnings.extend(one)
    if problems:
        raise InvalidSpec(problems)
    return Checked(warnings if complete else [*warnings, UNCHECKED], complete=complete)


def not_offered(field: str, reward: RewardSpec, offered: frozenset[str]) -> Iterator[FieldProblem]:
    """That no live reward service gives this reward, if so."""
    if reward.offer not in offered:
        problem = f"no running reward service offers {reward.offer!r}"
        yield FieldProblem(f"{field}.reward", problem, ", ".join(sorted(offered)) or "nothing at the moment")


def _parts(spec: RunSpec, rows: Mapping[str, Sequence[Row]]) -> Iterator[_Part]:
    trained = spec.tasks if spec.rollouts.source is None else ()  # rollouts from a file bring their rewards
    named = [
        *((f"tasks.{index}", task.reward) for index, task in enumerate(trained)),
        *((f"evaluation.{index}", evaluation.reward) for index, evaluation in enumerate(spec.evaluation)),
    ]
    for field, reward in named:
        yield _Part(field, reward, rows.get(field, ()))


async def _check(part: _Part, services: Sequence[Member]) -> list[FieldProblem] | None:
    """Warnings; None when no service that offers the reward answers. Raises InvalidSpec."""
    offering = [member for member in services if part.reward.offer in member.status.get("rewards", ())]
    for member in offering:
        client = Client(member.address, peer=member.id)
        try:
            asking = _Asking(client, part)
            await asking.options()
            return await asking.golds()
        except (Unavailable, PeerTimeout) as error:
            log.info("rewards_not_checked", error=error.message)
        finally:
            await client.close()
    return None if offering else []


class _Asking:
    """One reward service about one part of the spec."""

    def __init__(self, client: Client, part: _Part) -> None:
        self._client = client
        self._part = part
        self._reward_json = part.reward.model_dump_json()

    async def options(self) -> None:
        """Scores nothing by this reward, which shows whether it could. Raises InvalidSpec by the path in the spec."""
        try:
            await self._score([])
        except InvalidSpec as error:
            at = self._part.field
            raise InvalidSpec([replace(problem, path=f"{at}.{problem.path}") for problem in error.problems]) from None

    async def golds(self) -> list[FieldProblem]:
        """A warning for gold answers that the verifier cannot read. Raises InvalidSpec for rows that lack one."""
        if not isinstance(self._part.reward, MathSpec | VerifierSpec):
            return []  # models are not asked before there is need
        lines: dict[str, int] = {}
        for row in self._part.rows:
            lines.setdefault(row.answer if row.answer.strip() else "", row.line)
        if "" in lines and not await self._readable([""]):
            problem = f"line {lines['']} has no `answer`, and {self._part.reward.offer} needs one"
            raise InvalidSpec([FieldProblem(f"{self._part.field}.data", problem, "a gold answer in every row")])
        bad: list[str] = []
        with suppress(TimeoutError, PeerTimeout, Unavailable):
            async with asyncio.timeout(_GOLDS_S):
                await self._find_bad([gold for gold in lines if gold], bad)
        if not bad:
            return []
        where = ", ".join(f"{lines[gold]} ({gold[:40]!r})" for gold in bad)
        problem = f"gold answers that {self._part.reward.offer} cannot read, in lines {where}"
        problem += ", and perhaps more" if len(bad) == _BAD_GOLDS_NAMED else ""
        allowed = "answers that `syncline score --golds` passes; what has none is dropped"
        return [FieldProblem(f"{self._part.field}.data", problem, allowed)]

    async def _find_bad(self, golds: Sequence[str], bad: list[str]) -> None:
        """The first few golds that cannot be read. One of them refuses a whole call; halving finds which."""
        for start in range(0, len(golds), _GOLDS_A_CALL):
            some = golds[start : start + _GOLDS_A_CALL]
            if len(bad) >= _BAD_GOLDS_NAMED:
                return
            if await self._readable(some):
                continue
            if len(some) == 1:
                bad.append(some[0])
                continue
            middle = len(some) // 2
            await self._find_bad(some[:middle], bad)
            await self._find_bad(some[middle:], bad)

    async def _readable(self, golds: Sequence[str]) -> bool:
        try:
            await self._score([ScoreItem(answer=gold) for gold in golds])
        except InvalidSpec:
            return False
        return True

    async def _score(self, items: Sequence[ScoreItem]) -> None:
        request = ScoreRequest(reward_json=self._reward_json, items=items)
        await self._client.call(self._client.stub(RewardServiceStub).Score, request, timeout_s=_DEADLINE_S)
