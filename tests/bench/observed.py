"""One run on a local stack, and where the seconds of its steps went."""

from __future__ import annotations

import re
import statistics
import time
from dataclasses import dataclass
from typing import Any, cast

from redis import Redis

from services.learner.retention import is_published
from syncline import keys, runspec
from syncline.v1.rollout_pb2 import ScoredGroup
from tests.bench.report import BenchFailed
from tests.e2e.local_stack import LocalStack

_ASK_EVERY_S = 1.0
_DEADLINE_S = 900.0
_LOADS = re.compile(r"^syncline_weight_sync_seconds_(sum|count)\{phase=\"(\w+)\"\} (\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """Mean seconds of the steps after `first` of one run."""

    wall: float
    """From one step's end to the next."""
    generate: float
    """The generator's, for the groups of a step."""
    update: float
    """The learner's, from complete groups to new weights."""
    wait: float
    """The learner's, for complete groups."""
    sync: float
    """To publish weights and to load them in the generator, as often as that was done."""

    def __str__(self) -> str:
        return (
            f"{self.wall:.3f} s a step; generate {self.generate:.3f}, update {self.update:.3f}, "
            f"wait {self.wait:.3f}, sync {self.sync:.3f}"
        )


def observe(stack: LocalStack, spec: dict[str, Any], *, first: int) -> Steps:
    """Run `spec` to its end and look at the steps after `first`. Nothing else may run on the stack."""
    loads_before, load_seconds_before = _loads(stack)
    run_id = stack.submit(spec)
    generate_seconds = _follow(stack, run_id, after_step=first)
    loads, load_seconds = _loads(stack)

    rows = stack.steps(run_id)
    seen = rows[first + 1 :]
    if any(row["refused"] or row["dropped"] for row in seen):
        raise BenchFailed(f"{run_id}: groups were refused or dropped, so not every step did the same work")
    publishing = stack.api.get(f"/v1/runs/{run_id}/summary").json()["phase_seconds"]["publishing"]
    checked = runspec.parse(spec)
    published = [version for version in range(1, checked.steps + 1) if is_published(checked, version)]
    sync = publishing / len(published) + (load_seconds - load_seconds_before) / max(loads - loads_before, 1)
    syncs = sum(1 for version in published if first < version < checked.steps)  # what comes after the last step: not
    return Steps(
        wall=(rows[-1]["finished_at"] - rows[first]["finished_at"]) / len(seen),
        generate=spec["prompts_per_step"] * statistics.fmean(generate_seconds),
        update=statistics.fmean(row["update_seconds"] for row in seen),
        wait=statistics.fmean(row["wait_seconds"] for row in seen),
        sync=sync * syncs / len(seen),
    )


def mean(runs: list[Steps]) -> Steps:
    """The mean of several runs."""
    names = ("wall", "generate", "update", "wait", "sync")
    return Steps(**{name: statistics.fmean(getattr(run, name) for run in runs) for name in names})


def _follow(stack: LocalStack, run_id: str, *, after_step: int) -> list[float]:
    """Wait for the end of a run; returns the seconds that the generator needed for each group of the later steps."""
    seconds: list[float] = []
    newest, asked_at, started = "0", time.monotonic(), time.monotonic()
    with stack.redis() as redis:
        while True:
            for id, payload in _next_entries(redis, keys.scored(run_id), newest):
                newest = id
                group = ScoredGroup.FromString(payload).group
                if group.task.key.step > after_step:
                    seconds.append(group.generate_seconds)
            if time.monotonic() - asked_at < _ASK_EVERY_S:
                continue
            asked_at = time.monotonic()
            run = stack.run(run_id)
            if run["state"] == "succeeded":
                return seconds
            if run["state"] in ("failed", "cancelled") or asked_at - started > _DEADLINE_S:
                raise BenchFailed(f"{run_id} is {run['state']}: {run['reason']}\n{stack.logs()}")


def _next_entries(redis: Redis, stream: str, newest: str) -> list[tuple[str, bytes]]:
    """Entries after `newest`, as soon as there are any; an onlooker's read, which takes nothing from the learner."""
    block_ms = int(_ASK_EVERY_S * 1000)
    reply = cast(
        "list[tuple[bytes, list[tuple[bytes, dict[bytes, bytes]]]]]", redis.xread({stream: newest}, block=block_ms)
    )
    return [(id.decode(), fields[b"p"]) for _, entries in reply for id, fields in entries]


def _loads(stack: LocalStack) -> tuple[float, float]:
    """Checkpoint loads since the start of the stack, and their seconds, by the coordinator's metrics."""
    numbers = {(kind, phase): float(value) for kind, phase, value in _LOADS.findall(stack.api.get("/metrics").text)}
    return numbers.get(("count", "swap"), 0.0), sum(value for (kind, _), value in numbers.items() if kind == "sum")
