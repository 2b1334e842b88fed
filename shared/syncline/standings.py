"""What the evaluations of a run have found so far: a small file on the run's storage, `standings.json`.

The coordinator writes it whenever a result comes in; the learner reads it before it deletes old weights. So the best
version stays, and so does every version whose results are still to come, or that another run starts from. One file,
replaced atomically: a version is never without protection between the two.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from syncline.errors import NotFound, StorageError
from syncline.storage import Storage

_FILE = "standings.json"


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
    lent: frozenset[int] = frozenset()
    """Versions that other runs start from."""

    def of(self, evaluation: str) -> frozenset[int]:
        """Versions with a result of one set."""
        return self.results.get(evaluation, frozenset())


def write(storage: Storage, standings: Standings) -> None:
    """Raises StorageError."""
    results = {name: sorted(versions) for name, versions in standings.results.items()}
    best = asdict(standings.best) if standings.best else None
    data = {"results": results, "best": best, "lent": sorted(standings.lent)}
    storage.write_file(_FILE, (json.dumps(data, indent=1) + "\n").encode())


def read(storage: Storage) -> Standings:
    """The standings of a run; empty ones before the first result, or where nobody can read them."""
    try:
        data = json.loads(storage.read_file(_FILE))
        results = {name: frozenset(versions) for name, versions in data["results"].items()}
        best = BestVersion(**data["best"]) if data["best"] else None
        return Standings(results, best, frozenset(data.get("lent", ())))
    except (NotFound, StorageError, ValueError, KeyError, TypeError):  # then nothing that is to be evaluated is deleted
        return Standings()
