"""What a sync period above 1 saves on one machine: generation and training side by side, or one after the other.

A real local stack with the light engine, which is one process; the generator is pinned to one core and the learner
to another in all arms, the other services run on either. The arms are the same run but for the schedule:

sequential      s = 1: the prompts of step t + 1 are admitted when version t + 1 is published. Nothing overlaps.
s = 10          at lag 0 generators run ahead within a window, and wait for the new weights at its end.
s = 10, lag 1   generators run a window behind and never wait.

s = 1 also publishes and loads weights at every step. That is no lack of overlap, so the figures compare with the
sequential steps *less* those seconds, while s = 10 keeps its own. The steps after the first window count, up to the
end of the last: starting up is no part of it.

The bound is (Tg + Tt) / max(Tg, Tt), from the sequential arm: Tg are the seconds that the generator needed for the
groups of a step (`RolloutGroup.generate_seconds`), Tt the learner's update seconds. At lag 0 a window of s steps takes
Tg + Tt + (s - 1) max(Tg, Tt) at least: the bound of that arm is a little lower.

The workload is GRPO with a KL term on a model with random weights that never ends a text: two prompts of 64 tokens a
step, eight samples of 96 tokens each, all of which the learner forwards whatever their reward is. So every step does
the same work. The lengths are chosen so that Tg and Tt are about the same: then the bound is near 2, and whatever
does not overlap shows. Rewards are checked as always, and all 0: nothing is learned here.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from services.local.folder import StackFolder
from tests.bench.machine import pin, usable_cores
from tests.bench.model import make_model
from tests.bench.observed import Steps, mean, observe
from tests.bench.report import BenchFailed, Figure, Measured, Options
from tests.e2e.local_stack import LocalStack

PROMPTS_PER_STEP = 2
SAMPLES_PER_PROMPT = 8
_PROMPT = "Mile {:02d} of the road from Rome to Brindisi, as told by one who walked it: "


@dataclass(frozen=True, slots=True)
class Size:
    """The runs, and how often each arm runs."""

    period: int
    windows: int
    tokens: int
    rounds: int

    @property
    def steps(self) -> int:
        return self.period * self.windows

    @property
    def arms(self) -> dict[str, dict[str, int]]:
        """The `sync` of each arm's run spec."""
        return {
            "sequential": {"period": 1, "lag": 0},
            f"s = {self.period}": {"period": self.period, "lag": 0},
            f"s = {self.period}, lag 1": {"period": self.period, "lag": 1},
        }


def measure(options: Options) -> Measured:
    size = Size(2, windows=2, tokens=8, rounds=1) if options.quick else Size(10, windows=4, tokens=96, rounds=2)
    runs: dict[str, list[Steps]] = {arm: [] for arm in size.arms}
    with tempfile.TemporaryDirectory(prefix="syncline-") as name:
        folder = Path(name)
        make_model(folder / "model", quick=options.quick)
        _write_prompts(folder / "prompts.jsonl")
        with LocalStack(folder, project=folder) as stack:
            pinned = _pin(folder)
            observe(stack, _spec(folder, size, {"period": 1, "lag": 0}, steps=2), first=0)  # first loads take longer
            for _ in range(size.rounds):
                for arm, sync in size.arms.items():
                    steps = observe(stack, _spec(folder, size, sync, steps=size.steps), first=size.period - 1)
                    options.say(f"  {arm}: {steps}")
                    runs[arm].append(steps)
            if _pin(folder) != pinned:
                raise BenchFailed("the generator or the learner was started anew, and ran on any core for a while")
    details = {"steps": size.steps, "runs": {arm: [asdict(one) for one in runs[arm]] for arm in runs}}
    return Measured(_figures([mean(of_arm) for of_arm in runs.values()], size), details)


def _figures(means: list[Steps], size: Size) -> list[Figure]:
    sequential, strict, lagging = means
    generate, update, period = sequential.generate, sequential.update, size.period
    slower = max(generate, update)
    bound = (generate + update) / slower
    strict_bound = period * (generate + update) / (generate + update + (period - 1) * slower)
    names = list(size.arms)
    figures = [
        Figure(name=f"{arm}, a step", value=steps.wall, shown=f"{steps.wall:.3f} s")
        for arm, steps in zip(names, means, strict=True)
    ]
    figures.append(
        Figure(name="... of which syncs, sequential", value=sequential.sync, shown=f"{sequential.sync:.3f} s")
    )
    figures.append(Figure(name="Tg and Tt, sequential", value=bound, shown=f"{generate:.3f} s and {update:.3f} s"))
    for arm, steps, limit in ((names[1], strict, strict_bound), (names[2], lagging, bound)):
        faster = (sequential.wall - sequential.sync) / steps.wall
        whole = sequential.wall / steps.wall
        figures.append(
            Figure(
                name=f"{arm} against sequential less syncs (as it is)",
                value=faster,
                shown=f"x{faster:.2f} (x{whole:.2f})",
                target=f"bound x{limit:.2f}",
            )
        )
    return figures


def _write_prompts(path: Path) -> None:
    rows = [{"prompt": _PROMPT.format(number), "answer": "1"} for number in range(64)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _spec(folder: Path, size: Size, sync: dict[str, int], *, steps: int) -> dict[str, Any]:
    return {
        "name": "overlap",
        "model": {"path": str(folder / "model")},
        "algorithm": {"name": "grpo", "beta": 0.001},
        "sync": sync,
        "steps": steps,
        "prompts_per_step": PROMPTS_PER_STEP,
        "generation": {"samples_per_prompt": SAMPLES_PER_PROMPT, "max_tokens": size.tokens},
        "tasks": [{"name": "road", "data": str(folder / "prompts.jsonl"), "reward": {"type": "math"}}],
        "checkpoints": {"every": steps},
    }


def _pin(folder: Path) -> dict[str, int]:
    """Give generator and learner a core each; returns their process ids."""
    if len(usable_cores()) < 2:
        raise BenchFailed("generator and learner need a core each, and this process may use one only")
    children = StackFolder(folder).state()["children"]
    pids = {name: int(children[name]["pid"]) for name in ("inference-0", "learner")}
    for pid, core in zip(pids.values(), usable_cores(), strict=False):
        pin(pid, core)
    return pids
