"""Runs on a whole stack of which anything is killed, wiped or frozen at moments drawn from a seed."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests.e2e.local_stack import QUICKSTART, LocalStack, small_spec
from tests.e2e.test_a_run import assert_trained_exactly_once

_DEADLINE_S = 900.0
_HELDOUT = {"name": "heldout", "data": str(QUICKSTART / "heldout.jsonl"), "temperature": 0.0, "every": 20}
SPECS: dict[str, dict[str, Any]] = {
    "dpo s=4": small_spec(steps=80),
    "dpo s=1, reference follows": small_spec(steps=40, sync={"period": 1, "lag": 0}, reference={"sync": True}),
    "grpo s=5 lag=1": small_spec(steps=80, algorithm={"name": "grpo", "beta": 0.01}, sync={"period": 5, "lag": 1}),
    "dpo never, evaluated": small_spec(steps=80, sync={"period": "never", "lag": 0}, evaluation=[_HELDOUT]),
}
BLOWS = (
    *("kill learner", "kill inference-0", "kill inference-1", "kill reward", "kill coordinator"),
    *("kill redis", "wipe redis", "freeze inference-0", "freeze learner", "freeze coordinator"),
)


@dataclass(frozen=True, slots=True)
class Blow:
    """What happens `after_s` seconds after the blow before it."""

    kind: str
    after_s: float
    lasts_s: float
    """How long a freeze lasts: up to well beyond the leases of the stack."""


@dataclass(slots=True)
class StackRow:
    """One seed and how it went."""

    seed: int
    spec: str
    dealt: list[str] = field(default_factory=list)
    problem: str = ""
    seconds: float = 0.0
    attempts: int = 0

    def __str__(self) -> str:
        return (
            f"stack seed {self.seed} ({self.spec}): {self.problem or 'same bytes, same keys'} in {self.seconds:.0f} s, "
            f"{self.attempts} attempts; {', '.join(self.dealt) or 'it was over before the first blow'}"
        )


def schedule(seed: int) -> tuple[str, list[Blow]]:
    """The spec to run, and three to seven blows."""
    rng = Random(f"stack kills {seed}")
    name = rng.choice(list(SPECS))
    blows = [
        Blow(rng.choice(BLOWS), after_s=rng.uniform(0.0, 3.0), lasts_s=rng.uniform(0.1, 6.0))
        for _ in range(rng.randint(3, 7))
    ]
    return name, blows


def kill_stacks(stack: LocalStack, seeds: Sequence[int]) -> Iterator[StackRow]:
    """Run a spec for each seed under its blows; yields how it compares with the same spec in peace."""
    undisturbed: dict[str, bytes] = {}
    for seed in seeds:
        name, blows = schedule(seed)
        if name not in undisturbed:
            run_id = stack.submit(SPECS[name])
            stack.finish(run_id, within_s=_DEADLINE_S)
            undisturbed[name] = stack.final_weights(run_id)
        row = StackRow(seed, name)
        started = time.monotonic()
        try:
            _under_blows(stack, row, blows, undisturbed[name])
        except AssertionError as error:
            row.problem = str(error) or "an assertion without words"
        row.seconds = time.monotonic() - started
        yield row


def _under_blows(stack: LocalStack, row: StackRow, blows: Sequence[Blow], undisturbed: bytes) -> None:
    stack.until(lambda: len(stack.children()) == 6, what="all children", within_s=120)
    spec = SPECS[row.spec]
    run_id = stack.submit(spec)
    for blow in blows:
        time.sleep(blow.after_s)
        state = stack.run(run_id)["state"]
        if state in ("succeeded", "failed", "cancelled"):
            break
        _deal(stack, blow, row)
    run = stack.finish(run_id, within_s=_DEADLINE_S)
    row.attempts = run["attempts"]
    assert_trained_exactly_once(stack, run_id, spec)
    assert stack.final_weights(run_id) == undisturbed, "the weights differ"
    stack.until(stack.streams_are_empty, what="empty streams", within_s=30)


def _deal(stack: LocalStack, blow: Blow, row: StackRow) -> None:
    action, _, child = blow.kind.partition(" ")
    if child not in stack.children():
        return  # it is not back yet from the blow before
    row.dealt.append(blow.kind)
    if action == "wipe":
        stack.kill_redis(wipe=True)
    elif action == "kill":
        stack.kill(child)
    else:
        row.dealt[-1] += f" for {blow.lasts_s:.1f} s"
        stack.signal(child, signal.SIGSTOP)
        time.sleep(blow.lasts_s)
        stack.signal(child, signal.SIGCONT)
