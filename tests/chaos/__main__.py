"""`make chaos`: many seeds, and a table of what was killed and how it ended.

    python -m tests.chaos --seeds 100 --stacks 20      # learners alone, whole stacks
    python -m tests.chaos --seed 7 --stacks 0          # one seed of the learner's again
    python -m tests.chaos --seed 7 --seeds 0           # one seed of the stack's

All files are below .cache/chaos; those of a seed that failed stay there.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

# One thread per process, as in all tests; read when torch is imported.
os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

from syncline import redis_client
from tests.bench.server import server
from tests.chaos.campaign import kill_learners
from tests.chaos.stack_kills import kill_stacks
from tests.e2e.local_stack import LocalStack

_FOLDER = Path(".cache/chaos").resolve()


def main() -> int:
    arguments = _parser().parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops the stack, as Ctrl-C does
    one = arguments.seed
    learners = [one] if one is not None and arguments.seeds else range(arguments.seeds)
    stacks = [one] if one is not None and arguments.stacks else range(arguments.stacks)
    shutil.rmtree(_FOLDER, ignore_errors=True)
    _FOLDER.mkdir(parents=True)
    started = time.monotonic()
    problems = asyncio.run(_learners(learners)) + _stacks(stacks)
    print(f"{len(learners)} learner seeds, {len(stacks)} stack seeds, {problems} problems", end=" ")
    print(f"in {time.monotonic() - started:.0f} s")
    return 1 if problems else 0


async def _learners(seeds: Sequence[int]) -> int:
    if not seeds:
        return 0
    problems = 0
    with server() as url:
        redis = redis_client.connect(url)
        async for row in kill_learners(redis, url, seeds, folder=_FOLDER):
            print(row, flush=True)
            problems += bool(row.problem)
            if not row.problem:
                shutil.rmtree(_FOLDER / f"learner-{row.seed}")
        await redis.aclose()
    return problems


def _stacks(seeds: Sequence[int]) -> int:
    if not seeds:
        return 0
    problems = 0
    folder = _FOLDER / "stack"
    folder.mkdir()
    # Killing is no proof that a run cannot go on: only the table may say that one failed.
    with LocalStack(folder, project=Path.cwd(), generators=2, max_attempts="1000") as stack:
        for row in kill_stacks(stack, seeds):
            print(row, flush=True)
            problems += bool(row.problem)
    return problems


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Kill everything, at random.")
    parser.add_argument("--seeds", type=int, default=100, help="runs of the learner alone")
    parser.add_argument("--stacks", type=int, default=20, help="runs of whole stacks")
    parser.add_argument("--seed", type=int, help="only this one")
    return parser


if __name__ == "__main__":
    sys.exit(main())
