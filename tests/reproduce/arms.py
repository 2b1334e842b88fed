"""What is compared, as data: the quickstart's task and model, one arm for each row of the paper's Table 1.

An arm is a few changes to the quickstart, written as `syncline run --set` takes them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.cli import specfile
from syncline.runspec import RunSpec

QUICKSTART = Path("services/local/quickstart/quickstart.yaml")
HELDOUT = "heldout"
EVALUATE_EVERY = 25


@dataclass(frozen=True, slots=True)
class Paper:
    """Accuracy in percent, with the spread that the paper prints in brackets."""

    math500: tuple[float, float]
    numina_math: tuple[float, float]
    amc23: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to train."""

    key: str
    title: str
    overrides: tuple[str, ...]
    paper: Paper | None
    """Its row of Table 1 (Llama-3.1-8B-Instruct on NuminaMath, Math-Verify rewards); None where there is none."""


SEED_MODEL = Paper((47.4, 1.6), (33.9, 0.6), (23.7, 5.2))
"""Table 1 before training."""

ARMS = (
    Arm("offline", "offline DPO", ("sync.period=never",), Paper((53.7, 1.6), (36.4, 0.6), (28.8, 7.0))),
    Arm("s100", "semi-online DPO, s = 100", ("sync.period=100",), Paper((58.9, 1.2), (39.3, 0.4), (35.1, 5.3))),
    Arm("s10", "semi-online DPO, s = 10", ("sync.period=10",), Paper((57.2, 1.1), (39.4, 0.5), (31.4, 4.3))),
    Arm("s5", "semi-online DPO, s = 5", ("sync.period=5",), None),
    Arm("s1", "online DPO, s = 1", ("sync.period=1",), Paper((58.7, 1.2), (39.6, 0.5), (32.9, 5.2))),
    Arm(
        "grpo",
        "online GRPO",
        ("sync.period=1", "algorithm={name: grpo}", "optimizer.lr=1e-4"),
        Paper((58.1, 1.3), (38.8, 0.5), (33.6, 5.1)),
    ),
)


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of an arm."""

    arm: Arm
    seed: int
    spec: RunSpec


def trials(arms: Sequence[Arm], *, seeds: Sequence[int], steps: int) -> Iterator[Trial]:
    """Every run, seed by seed, so that a part of them compares all arms already.

    A run's name ends in a digest of all its settings: what was run with other settings is another run.
    Raises InvalidSpec, as for an arm whose period is longer than the run.
    """
    for seed in seeds:
        for arm in arms:
            spec = specfile.load(QUICKSTART, overrides=[*_common(steps), *arm.overrides, f"seed={seed}"])
            digest = hashlib.sha256(spec.model_dump_json().encode()).hexdigest()[:8]
            yield Trial(arm, seed, spec.model_copy(update={"name": f"{arm.key}-seed-{seed}-{digest}"}))


def _common(steps: int) -> list[str]:
    warmup = min(steps, specfile.load(QUICKSTART).optimizer.warmup_steps)
    overrides = ["name=reproduce", f"steps={steps}", f"evaluation.0.every={EVALUATE_EVERY}"]
    return [*overrides, f"optimizer.warmup_steps={warmup}"]
