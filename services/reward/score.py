"""Scores rows of a file, without a stack: `python -m services.reward.score --reward '{"type": "math"}' < rows.jsonl`.

A row is `{"completion": ..., "answer": ...}`, with a `prompt` where the reward needs one, and with a `reward` of its
own if it is not the common one. For each row one line of JSON comes out, in order: `line` with `status`, `score`,
`cause` and `seconds`, or `line` with the `problem` of a row that cannot be scored. Rows flow through: a long file
needs no more memory than a short one.

Exit codes: 0 every row has a verdict, 1 some have a problem or nothing could be scored.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, TextIO

from services.reward.endpoints import Endpoints
from services.reward.scorer import Scorer, rewards
from services.reward.settings import RewardSettings
from services.reward.verdicts import Item, Verdict, messages_of
from services.reward.verifiers.pool import VerifierPool
from syncline import telemetry
from syncline.errors import FieldProblem, InvalidSpec, SynclineError
from syncline.rewardspec import JudgeSpec, RewardSpec
from syncline.settings import load

_ROWS_AT_ONCE = 256
_CHUNKS_AT_ONCE = 4
"""In work, so that no worker waits for the end of a chunk."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the file that can be scored."""

    line: int
    reward_json: str
    item: Item


@dataclass(frozen=True, slots=True)
class Problem:
    """One line of the file that cannot."""

    line: int
    problem: str


class RowScorer:
    """Scores lines, each by its own reward or by the common one."""

    def __init__(self, scorer: Scorer, *, reward_json: str, golds: bool) -> None:
        self._scorer = scorer
        self._reward_json = reward_json
        self._golds = golds

    async def score(self, lines: Sequence[tuple[int, str]]) -> list[dict[str, Any]]:
        """What is told of each line."""
        told: dict[int, dict[str, Any]] = {}
        by_reward: dict[str, list[Row]] = defaultdict(list)
        for number, text in lines:
            row = self._read(number, text)
            if isinstance(row, Row):
                by_reward[row.reward_json].append(row)
            else:
                told[number] = {"line": number, "problem": row.problem}
        for some in await asyncio.gather(*(self._by(reward, rows) for reward, rows in by_reward.items())):
            told.update(some)
        return [told[number] for number, _ in lines]

    def _read(self, line: int, text: str) -> Row | Problem:
        try:
            record = json.loads(text)
        except json.JSONDecodeError as error:
            return Problem(line, f"no JSON: {error}")
        if not isinstance(record, dict):
            return Problem(line, f"a {type(record).__name__}; give an object")
        answer = record.get("answer")
        answer = "" if answer is None else str(answer)
        completion = answer if self._golds else record.get("completion")
        if not isinstance(completion, str):
            return Problem(line, "has no `completion`; to check gold answers alone, say --golds")
        own = record.get("reward")
        reward_json = self._reward_json if own is None else json.dumps(own, sort_keys=True)
        prompt = record.get("prompt") or ""
        try:
            messages = messages_of(json.dumps(prompt) if isinstance(prompt, list) else "", prompt_text=str(prompt))
        except InvalidSpec:
            return Problem(line, "has a `prompt` that is neither text nor messages")
        return Row(line, reward_json, Item(str(prompt), completion, answer, messages=messages))

    async def _by(self, reward_json: str, rows: Sequence[Row]) -> dict[int, dict[str, Any]]:
        try:
            spec = self._scorer.route(reward_json)
            await self._scorer.score(spec, [])
            _rows_alone(spec)
        except InvalidSpec as error:
            return {row.line: {"line": row.line, "problem": error.message} for row in rows}
        found = await self._verdicts(spec, [row.item for row in rows])
        return {row.line: _told(row.line, verdict) for row, verdict in zip(rows, found, strict=True)}

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


def _told(line: int, verdict: Verdict | InvalidSpec) -> dict[str, Any]:
    if isinstance(verdict, InvalidSpec):
        return {"line": line, "problem": verdict.message}
    if verdict.status == "unavailable":
        return {"line": line, "problem": f"no verdict: {verdict.cause}"}
    told = {"line": line, "status": verdict.status, "score": verdict.score, "cause": verdict.cause}
    return told | {"seconds": round(verdict.seconds, 6)}


async def score_file(rows: TextIO, out: TextIO, *, reward_json: str, golds: bool, settings: RewardSettings) -> int:
    """Score all rows of a file; returns the exit code. Raises when the reward is none, or no verifier starts."""
    pool = VerifierPool(workers=settings.verifier_workers, limits=settings.limits, wall_s=settings.check_wall_s)
    endpoints = Endpoints(keys_dir=settings.keys_dir)
    scorer = Scorer(rewards(settings, pool, endpoints))
    await scorer.score(scorer.route(reward_json), [])
    row_scorer = RowScorer(scorer, reward_json=reward_json, golds=golds)
    verifier = asyncio.create_task(pool.run())
    ready = asyncio.create_task(pool.ready.wait())
    try:
        await asyncio.wait({verifier, ready}, return_when=asyncio.FIRST_COMPLETED)
        if verifier.done():
            verifier.result()
        return await _through(rows, out, row_scorer)
    finally:
        for task in (verifier, ready):
            task.cancel()
        await asyncio.gather(verifier, ready, return_exceptions=True)
        await endpoints.close()


async def _through(rows: TextIO, out: TextIO, scorer: RowScorer) -> int:
    chunks: asyncio.Queue[asyncio.Task[list[dict[str, Any]]] | None] = asyncio.Queue(_CHUNKS_AT_ONCE)

    async def read() -> None:
        lines = ((number, line) for number, line in enumerate(rows, start=1) if line.strip())
        while chunk := await asyncio.to_thread(lambda: list(islice(lines, _ROWS_AT_ONCE))):
            await chunks.put(asyncio.create_task(scorer.score(chunk)))
        await chunks.put(None)

    reading = asyncio.create_task(read())
    code = 0
    while (chunk := await _next(chunks, reading)) is not None:
        for told in await chunk:
            code |= "problem" in told
            out.write(json.dumps(told, ensure_ascii=False) + "\n")
        out.flush()
    return code


async def _next(chunks: asyncio.Queue[Any], reading: asyncio.Task[None]) -> Any:
    """The next chunk, or the reason why there is none."""
    chunk = asyncio.create_task(chunks.get())
    await asyncio.wait({chunk, reading}, return_when=asyncio.FIRST_COMPLETED)
    if not chunk.done() and (error := reading.exception()) is not None:
        chunk.cancel()
        raise error
    return await chunk


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m services.reward.score", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--reward", default='{"type": "math"}', help="reward of rows that name none, as in a run spec")
    parser.add_argument("--golds", action="store_true", help="score each gold answer against itself")
    arguments = parser.parse_args()
    settings = load(RewardSettings)
    telemetry.setup("score", settings.model_copy(update={"log_level": "ERROR", "metrics_bind": ""}))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the command in front, which then ends us
    sys.stdin.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]
    try:
        with suppress(BrokenPipeError):  # whoever read this has seen enough
            return asyncio.run(
                score_file(
                    sys.stdin, sys.stdout, reward_json=arguments.reward, golds=arguments.golds, settings=settings
                )
            )
    except InvalidSpec as error:
        print(*(f"error: {problem}" for problem in error.problems), sep="\n", file=sys.stderr)
    except SynclineError as error:
        print(f"error: {error.message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
