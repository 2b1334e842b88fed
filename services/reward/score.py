"""Scores rows of a file, without a stack: `python -m services.reward.score --reward '{"type": "math"}' rows.jsonl`.

A row is `{"completion": ..., "answer": ...}`, with a `prompt` where the reward needs one, and with a `reward` of its
own if it is not the common one. Files are read as training reads them. For each row one line of JSON comes out, in
order: `line` with `status`, `score`, `cause` and `seconds`, or `line` with the `problem` of a row that cannot be
scored. Rows flow through: a long file needs no more memory than a short one.

With --golds each gold answer is scored against itself, as it is and as a completion would best write it (math: in a
box). One that is not worth 1 both times has a problem.

Exit codes: 0 every row has a verdict, 1 some have a problem or nothing could be scored.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from services.reward.endpoints import Endpoints
from services.reward.scorer import Scorer, rewards
from services.reward.settings import RewardSettings
from services.reward.verdicts import Item, Verdict, messages_of
from services.reward.verifier_reward import best_completion
from services.reward.verifiers.pool import VerifierPool
from syncline import telemetry
from syncline.data_rows import BadRow, DataRow, answer_of, is_prompt, rows_of
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


class RowScorer:
    """Scores rows, each by its own reward or by the common one."""

    def __init__(self, scorer: Scorer, *, reward_json: str, golds: bool) -> None:
        self._scorer = scorer
        self._reward_json = reward_json
        self._golds = golds

    async def score(self, rows: Sequence[DataRow | BadRow]) -> list[dict[str, Any]]:
        """What is told of each row."""
        told: dict[int, dict[str, Any]] = {}
        by_reward: dict[str, list[Row]] = defaultdict(list)
        for found in rows:
            row = self._read(found) if isinstance(found, DataRow) else found
            if isinstance(row, Row):
                by_reward[row.reward_json].append(row)
            else:
                told[row.line] = {"line": row.line, "problem": f"{row.problem}; allowed: {row.allowed}"}
        for some in await asyncio.gather(*(self._by(reward, rows) for reward, rows in by_reward.items())):
            told.update(some)
        return [told[row.line] for row in rows]

    def _read(self, row: DataRow) -> Row | BadRow:
        answer = answer_of(row)
        if isinstance(answer, BadRow):
            return answer
        completion = answer if self._golds else row.fields.get("completion")
        if not isinstance(completion, str):
            return BadRow(row.line, "has no `completion`", "text; to check gold answers alone, say --golds")
        own = row.fields.get("reward")
        reward_json = self._reward_json if own is None else json.dumps(own, sort_keys=True)
        prompt = row.fields.get("prompt") or ""
        if prompt and not is_prompt(prompt):
            return BadRow(row.line, "has a `prompt` that is neither text nor messages", "text, or messages, or none")
        messages_json = "" if isinstance(prompt, str) else json.dumps(prompt)
        text = prompt if isinstance(prompt, str) else ""
        return Row(
            row.line,
            reward_json,
            Item(text, completion, answer, messages=messages_of(messages_json, prompt_text=text)),
        )

    async def _by(self, reward_json: str, rows: Sequence[Row]) -> dict[int, dict[str, Any]]:
        try:
            spec = self._scorer.route(reward_json)
            await self._scorer.score(spec, [])
            _rows_alone(spec)
        except InvalidSpec as error:
            return {row.line: {"line": row.line, "problem": error.message} for row in rows}
        verdicts = await self._verdicts(spec, [row.item for row in rows])
        if not self._golds:
            return {row.line: _told(row.line, verdict) for row, verdict in zip(rows, verdicts, strict=True)}
        best = [replace(row.item, completion=best_completion(spec, row.item.answer)) for row in rows]
        told = zip(rows, verdicts, await self._verdicts(spec, best), strict=True)
        return {row.line: _told_of_gold(row.line, plain, boxed) for row, plain, boxed in told}

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


def _told_of_gold(line: int, plain: Verdict | InvalidSpec, best: Verdict | InvalidSpec) -> dict[str, Any]:
    """What is told of a gold answer: its verdict when it equals itself however it is written."""
    told, also = _told(line, plain), _told(line, best)
    if "problem" in told or "problem" in also:
        return told if "problem" in told else also
    match told["score"] == 1.0, also["score"] == 1.0:
        case True, True:
            return told
        case True, False:
            problem = "the gold answer equals itself as text only; as mathematics, in a box, it does not"
        case False, True:
            problem = "the gold answer equals itself in a box only; as it is, it reads as something else"
        case _:
            problem = f"the gold answer does not equal itself ({told['status']} {told['cause']})"
    return {"line": line, "problem": problem}


async def score_file(path: Path, out: TextIO, *, reward_json: str, golds: bool, settings: RewardSettings) -> int:
    """Score all rows of a file; returns the exit code. Raises when the reward is none, or no verifier starts."""
    pool = VerifierPool(workers=settings.verifier_workers, limits=settings.limits, wall_s=settings.check_wall_s)
    endpoints = Endpoints(keys_dir=settings.keys_dir)
    scorer = Scorer(rewards(settings, pool, endpoints))
    await scorer.score(scorer.route(reward_json), [])
    rows = rows_of(path, field="FILE")
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


async def _through(rows: Iterator[DataRow | BadRow], out: TextIO, scorer: RowScorer) -> int:
    chunks: asyncio.Queue[asyncio.Task[list[dict[str, Any]]] | None] = asyncio.Queue(_CHUNKS_AT_ONCE)

    async def read() -> None:
        while chunk := await asyncio.to_thread(lambda: list(islice(rows, _ROWS_AT_ONCE))):
            await chunks.put(asyncio.create_task(scorer.score(chunk)))
        await chunks.put(None)

    reading = asyncio.create_task(read())
    code, empty = 0, True
    while (chunk := await _next(chunks, reading)) is not None:
        empty = False
        for told in await chunk:
            code |= "problem" in told
            out.write(json.dumps(told, ensure_ascii=False) + "\n")
        out.flush()
    if empty:
        raise InvalidSpec([FieldProblem("FILE", "it holds no rows", "at least one row")])
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
    parser.add_argument("file", type=Path, help="JSONL, JSONL packed by gzip, or Parquet")
    parser.add_argument("--reward", default='{"type": "math"}', help="reward of rows that name none, as in a run spec")
    parser.add_argument("--golds", action="store_true", help="score each gold answer against itself")
    arguments = parser.parse_args()
    settings = load(RewardSettings)
    telemetry.setup("score", settings.model_copy(update={"log_level": "ERROR", "metrics_bind": ""}))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the command in front, which then ends us
    try:
        with suppress(BrokenPipeError):  # whoever read this has seen enough
            return asyncio.run(
                score_file(
                    arguments.file, sys.stdout, reward_json=arguments.reward, golds=arguments.golds, settings=settings
                )
            )
    except InvalidSpec as error:
        print(*(f"error: {problem}" for problem in error.problems), sep="\n", file=sys.stderr)
    except SynclineError as error:
        print(f"error: {error.message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
