"""Scores rows of a file, without a stack: `python -m services.reward.score --reward '{"type": "math"}' rows.jsonl`.

A row is `{"completion": ..., "answer": ...}`, with a `prompt` where the reward needs one, and with a `reward` of its
own if it is not the common one. A reward that is shaped by length needs the `tokens` of a row, and its `max_tokens`.
Files are read as training reads them. For each row one line of JSON comes out, in order: `line` with `status`, `score`,
`cause` and `seconds` (and `graded` where a score is more than right or wrong), or `line` with the `problem` of a row
that cannot be scored. Rows flow through: a long file needs no more memory than a short one.

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
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from services.reward.endpoints import Endpoints
from services.reward.row_scorer import RowScorer
from services.reward.scorer import Scorer, rewards
from services.reward.settings import RewardSettings
from services.reward.verifiers.pool import VerifierPool
from syncline import telemetry
from syncline.data_rows import BadRow, DataRow, rows_of
from syncline.errors import FieldProblem, InvalidSpec, SynclineError
from syncline.settings import load

_ROWS_AT_ONCE = 256
_CHUNKS_AT_ONCE = 4
"""In work, so that no worker waits for the end of a chunk."""


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
