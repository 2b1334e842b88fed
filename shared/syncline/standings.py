"""What the evaluations of a run have found so far: a small file in the run's folder, `standings.json`.

The coordinator writes it whenever a result comes in; the learner reads it before it deletes old weights. So the best
version stays, and so does every version whose results are still to come. One file, replaced atomically: a version is
never without protection between the two.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from syncline import checkpoints


@dataclass(frozen=True, slots=True)
class BestVersion:
    """The version with the highest value of a metric."""

    version: int
    evaluation: str
    metric: str
    value: float


@dataclass(frozen=True, slots=True)
class Standings:
    """Which evaluations are in, and what is best among them."""

    results: Mapping[str, frozenset[int]] = field(default_factory=dict)
    """Versions with a result, by evaluation set."""
    best: BestVersion | None = None

    def of(self, evaluation: str) -> frozenset[int]:
        """Versions with a result of one set."""
        return self.results.get(evaluation, frozenset())


def write(run_dir: Path, standings: Standings) -> None:
    results = {name: sorted(versions) for name, versions in standings.results.items()}
    best = asdict(standings.best) if standings.best else None
    checkpoints.write_text(run_dir / "standings.json", json.dumps({"results": results, "best": best}, indent=1) + "\n")


def read(run_dir: Path) -> Standings:
    """The standings of a run; empty ones before the first result, or where nobody can read them."""
    try:
        data = json.loads((run_dir / "standings.json").read_text(encoding="utf-8"))
        results = {name: frozenset(versions) for name, versions in data["results"].items()}
        return Standings(results, BestVersion(**data["best"]) if data["best"] else None)
    except (OSError, ValueError, KeyError, TypeError):  # without it nothing that is to be evaluated is deleted
        return Standings()
