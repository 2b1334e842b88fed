"""SIGKILL of the learner at random moments: the run ends with the bytes, and the record, of an undisturbed one.

`make chaos` runs more seeds, and whole stacks; a seed that fails here is replayed by `make chaos SEED=n STACKS=0`.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from redis.asyncio import Redis

from tests.chaos.campaign import SEEDS_IN_CI, kill_learners


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_learners_killed_at_random_moments_end_with_the_same_bytes_and_train_the_same_keys(
    redis: Redis, redis_url: str, tmp_path: Path
) -> None:
    interrupted: Counter[str] = Counter()
    kills = 0
    async for row in kill_learners(redis, redis_url, range(SEEDS_IN_CI), folder=tmp_path):
        assert not row.problem, f"{row}\nreplay it: make chaos SEED={row.seed} STACKS=0\n{row.log}"
        interrupted.update(row.outcome.kills)
        kills += len(row.outcome.kills)
    # The kills did hit what they were meant to hit.
    assert kills >= 2 * SEEDS_IN_CI
    assert {"load", "collect", "update", "publish", "save"} <= set(interrupted), interrupted
