"""The raw numbers of the experiment, as the one JSON file that table and figure are made from."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

Checkpoint = Literal["best", "last"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One run."""

    arm: str
    seed: int
    accuracies: dict[int, float]
    """Held-out accuracy by version, in the order of versions; version 0 is the seed model."""
    groups: int
    """Prompts that were trained on."""
    staleness: int
    """The largest of any step."""

    @property
    def before(self) -> float:
        return self.accuracies[0]

    @property
    def best(self) -> float:
        """Of the trained checkpoints."""
        return max(accuracy for version, accuracy in self.accuracies.items() if version)

    @property
    def best_version(self) -> int:
        """The first that is as good as the best."""
        return next(version for version, accuracy in self.accuracies.items() if version and accuracy == self.best)

    @property
    def last(self) -> float:
        return self.accuracies[max(self.accuracies)]

    def at(self, checkpoint: Checkpoint) -> float:
        return self.best if checkpoint == "best" else self.last


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """All runs, and how they came about."""

    command: str
    date: str
    machine: str
    engine: str
    versions: dict[str, str]
    """Of the software that has a say in the numbers."""
    steps: int
    results: tuple[Result, ...]

    @property
    def seeds(self) -> list[int]:
        return sorted({result.seed for result in self.results})

    def of(self, arm: str) -> list[Result]:
        return sorted((result for result in self.results if result.arm == arm), key=lambda result: result.seed)


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and sample standard deviation; a single number has none."""

    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def save(experiment: Experiment, path: Path) -> None:
    path.write_text(json.dumps(asdict(experiment), indent=1) + "\n", encoding="utf-8")


def load(path: Path) -> Experiment:
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    results = tuple(
        Result(**{**row, "accuracies": {int(version): value for version, value in row["accuracies"].items()}})
        for row in data.pop("results")
    )
    return Experiment(**data, results=results)
