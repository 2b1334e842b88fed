"""Scores the rows of a file, each by its own reward or by the common one."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from services.reward import rows
from services.reward.scorer import Scorer
from services.reward.verdicts import Item, Verdict
from services.reward.verifier_reward import best_completion
from syncline.data_rows import BadRow, DataRow
from syncline.errors import FieldProblem, InvalidSpec
from syncline.rewardspec import JudgeSpec, RewardSpec


class RowScorer:
    """Scores rows in any number of portions."""

    def __init__(self, scorer: Scorer, *, reward_json: str, golds: bool) -> None:
        self._scorer = scorer
        self._reward_json = reward_json
        self._golds = golds

    async def score(self, found: Sequence[DataRow | BadRow]) -> list[dict[str, Any]]:
        """What is told of each row."""
        told: dict[int, dict[str, Any]] = {}
        by_reward: dict[str, list[rows.Row]] = defaultdict(list)
        for one in found:
            row = rows.read(one, reward_json=self._reward_json, golds=self._golds) if isinstance(one, DataRow) else one
            if isinstance(row, rows.Row):
                by_reward[row.reward_json].append(row)
            else:
                told[row.line] = {"line": row.line, "problem": f"{row.problem}; allowed: {row.allowed}"}
        for part in await asyncio.gather(*(self._by(reward, some) for reward, some in by_reward.items())):
            told.update(part)
        return [told[row.line] for row in found]

    async def _by(self, reward_json: str, some: Sequence[rows.Row]) -> dict[int, dict[str, Any]]:
        try:
            spec = self._scorer.route(reward_json)
            await self._scorer.score(spec, [])
            _rows_alone(spec)
        except InvalidSpec as error:
            return {row.line: {"line": row.line, "problem": error.message} for row in some}
        verdicts = await self._verdicts(spec, [row.item for row in some])
        if not self._golds:
            told_of = zip(some, verdicts, strict=True)
            return {row.line: rows.told(row.line, verdict, graded=spec.graded) for row, verdict in told_of}
        best = [replace(row.item, completion=best_completion(spec, row.item.answer)) for row in some]
        told = zip(some, verdicts, await self._verdicts(spec, best), strict=True)
        return {row.line: rows.told_of_gold(row.line, plain, boxed) for row, plain, boxed in told}

    async def _verdicts(self, spec: RewardSpec, items: Sequence[Item]) -> list[Verdict | InvalidSpec]:
        """One gold answer that cannot be read refuses the whole call; halving finds whose it is."""
        try:
            return [*await self._scorer.score(spec, items)]
        except InvalidSpec as error:
            if len(items) == 1:
                return [error]
        middle = len(items) // 2
        first, second = await asyncio.gather(self._verdicts(spec, items[:middle]), self._verdicts(spec, items[middle:]))
        return first + second


def _rows_alone(spec: RewardSpec) -> None:
    """Raise InvalidSpec for a reward that compares answers: the rows of a file are of different prompts."""
    if isinstance(spec, JudgeSpec) and spec.mode != "pointwise":
        problem = f"{spec.mode} compares answers to one prompt, and each row is alone"
        raise InvalidSpec([FieldProblem("reward.mode", problem, "'pointwise'")])
