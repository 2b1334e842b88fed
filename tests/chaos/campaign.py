"""Many seeds against one undisturbed run."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path

from redis.asyncio import Redis

from tests.chaos.learner_kills import Kill, Outcome, schedule, train
from tests.integration.learner_world import spec_of
from tests.integration.tiny_models import make_tiny_model

SEEDS_IN_CI = 20


@dataclass(frozen=True, slots=True)
class Row:
    """One seed and how it went."""

    seed: int
    kills: list[Kill]
    outcome: Outcome
    problem: str
    seconds: float
    log: str

    def __str__(self) -> str:
        planned = ", ".join(f"{kill.moment}+{kill.steps_ahead}@{kill.fraction:.2f}" for kill in self.kills)
        return (
            f"seed {self.seed}: {self.problem or 'same bytes, same keys'} in {self.seconds:.1f} s; planned: {planned}; "
            f"interrupted: {', '.join(self.outcome.kills)}; went on from {self.outcome.first_steps}; "
            f"reports told again: {self.outcome.missed}"
        )


async def kill_learners(redis: Redis, redis_url: str, seeds: Iterable[int], *, folder: Path) -> AsyncIterator[Row]:
    """Train the same run once in peace and once for each seed; yields how each compares."""
    model = make_tiny_model(folder / "seed-model", seed=0, hidden=16, layers=1, heads=1)
    spec = spec_of(model, steps=10, sync={"period": 2}, reference={"sync": True}, checkpoints={"every": 3, "keep": 2})
    started = time.monotonic()
    await train(redis, redis_url, spec, folder=folder / "warm-up", spans={})  # the fork server imports torch
    warm = time.monotonic()
    undisturbed = await train(redis, redis_url, spec, folder=folder / "undisturbed", spans={})
    spans = {**undisturbed.spans, "run": time.monotonic() - warm}
    assert undisturbed.steps == list(range(spec.steps)), f"the undisturbed run itself is wrong ({warm - started:.1f} s)"
    for seed in seeds:
        started = time.monotonic()
        kills, place = schedule(seed), folder / f"learner-{seed}"
        outcome = await train(redis, redis_url, spec, folder=place, kills=kills, spans=spans)
        yield Row(
            seed,
            kills,
            outcome,
            _compare(outcome, undisturbed),
            time.monotonic() - started,
            (place / "learner.log").read_text(errors="replace")[-4000:],
        )


def _compare(outcome: Outcome, undisturbed: Outcome) -> str:
    """What differs; empty when nothing does."""
    if outcome.steps != undisturbed.steps or outcome.trained != undisturbed.trained:
        return f"it trained {outcome.trained}, not {undisturbed.trained}"
    if outcome.weights != undisturbed.weights:
        return "the weights differ"
    if outcome.leftovers:
        return f"it left {outcome.leftovers} behind"
    return ""
