"""What became of the samples of a step, in one line. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

_CAUSES_SHOWN = 2


def verdicts_of(tasks: Sequence[Mapping[str, Any]]) -> str:
    """Of a step's tasks: `scored 93.8%, timeout 6.2% (more than 1 s of CPU time 8)`. Empty where nothing arrived."""
    counts: Counter[str] = Counter()
    causes: Counter[str] = Counter()
    for task in tasks:
        counts.update(task.get("verdicts", {}))
        causes.update(task.get("causes", {}))
    total = counts.total()
    return ", ".join(f"{status} {count / total:.1%}{_why(status, causes)}" for status, count in counts.most_common())


def _why(status: str, causes: Counter[str]) -> str:
    found = [(cause.partition(": ")[2], count) for cause, count in causes.most_common() if cause.startswith(status)]
    if not found:
        return ""
    shown = "; ".join(f"{cause} {count}" for cause, count in found[:_CAUSES_SHOWN])
    return f" ({shown}; ...)" if len(found) > _CAUSES_SHOWN else f" ({shown})"
