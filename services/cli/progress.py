"""What a follower of a run knows so far: events in, numbers and sentences out. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from services.cli.client import TERMINAL, Event

_WINDOW = 20  # steps that pace and tokens/s are taken over


@dataclass(slots=True)
class Progress:
    """One run as its events told it."""

    run_id: str
    name: str
    steps: int
    state: str = "pending"
    reason: str = ""
    step: int = 0
    """Updates made."""
    last: Mapping[str, Any] | None = None
    """The newest step's row."""
    rewards: list[float] = field(default_factory=list)
    evaluations: dict[str, list[Mapping[str, Any]]] = field(default_factory=dict)
    """Rows by set, in the order of their versions."""
    period: str = ""
    """The last change of the sync period, in words."""
    warnings: dict[str, str] = field(default_factory=dict)
    """By what they are about; the newest holds."""
    versions: dict[str, int] = field(default_factory=dict)
    """What each generator that loaded something holds."""
    _recent: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=_WINDOW + 1))

    @classmethod
    def of(cls, run: Mapping[str, Any]) -> Progress:
        """Start from the run resource."""
        return cls(run_id=run["id"], name=run["name"], steps=run["progress"]["steps"], state=run["state"])

    @property
    def over(self) -> bool:
        return self.state in TERMINAL

    def apply(self, event: Event) -> None:
        """Take in one event; kinds that are not known are left out.

        So is the snapshot that a stream begins with: the events that led there follow it.
        """
        data = event.data
        if event.type == "state":
            self.state, self.reason = str(data["state"]), str(data.get("reason") or "")
        elif event.type == "step":
            self._on_step(data)
        elif event.type == "evaluation" and data.get("score") is not None:
            rows = {row["version"]: row for row in [*self.evaluations.get(data["name"], []), data]}
            self.evaluations[data["name"]] = [rows[version] for version in sorted(rows)]
        elif event.type == "period":
            self.period = period_change(data)
        elif event.type == "warning":
            self.warnings[str(data["path"])] = warning(data)
        elif event.type == "fleet" and data.get("event") == "loaded":
            self.versions[data["generator"]] = int(data["version"])

    def _on_step(self, row: Mapping[str, Any]) -> None:
        step = int(row["step"])
        if step < self.step:  # a later attempt goes on from a saved state and makes these steps again
            del self.rewards[step:]
            self._recent.clear()
        self.step, self.last = step + 1, row
        self.rewards.append(float(row["reward_mean"]))
        self._recent.append((float(row["finished_at"]), int(row["tokens"])))

    @property
    def tokens_per_second(self) -> float | None:
        """Over the last steps; None before there are two."""
        seconds = self._recent[-1][0] - self._recent[0][0] if len(self._recent) > 1 else 0.0
        return sum(tokens for _, tokens in list(self._recent)[1:]) / seconds if seconds > 0 else None

    @property
    def eta_s(self) -> float | None:
        """Seconds to the last step at the pace of the last ones; None before there is a pace, or when it is over."""
        if len(self._recent) < 2 or self.over:
            return None
        return (self._recent[-1][0] - self._recent[0][0]) / (len(self._recent) - 1) * (self.steps - self.step)

    @property
    def phase(self) -> str:
        """What the run is doing, in words."""
        if self.over or self.state in ("paused", "stalled"):
            return f"{self.state}: {self.reason}" if self.reason else self.state
        if self.state == "pending":
            return self.reason or "waiting for its turn"
        if self.state == "starting":
            return self.reason or "the learner loads the seed model and publishes it as version 0"
        if not self.versions:
            return "the generators start their engines with version 0 and prove it (the first load is the slow one)"
        if self.step == 0:
            return "the first rollouts are on their way"
        if self.step >= self.steps:
            return "all steps are made; the last evaluation runs"
        return "training"


def numbers(progress: Progress) -> list[tuple[str, str]]:
    """What a person watches of the newest step, as (name, value)."""
    row = progress.last
    if row is None:
        return []
    shown = [
        ("reward", f"{row['reward_mean']:.3f}"),
        ("pairs", f"{row['pairs']}"),
        ("staleness", f"{row['staleness']}"),
        ("version", f"{row['version']}"),
    ]
    if (waste := row.get("metrics", {}).get("padding_waste")) is not None:
        shown.append(("padding", f"{waste:.0%}"))
    if progress.tokens_per_second is not None:
        shown.append(("tokens/s", f"{progress.tokens_per_second:,.0f}"))
    if progress.eta_s is not None:
        shown.append(("eta", duration(progress.eta_s)))
    return shown


def period_change(data: Mapping[str, Any]) -> str:
    """That somebody changed the sync period."""
    return f"sync period {data['period']} from step {data['from_step']} on"


def warning(problem: Mapping[str, Any]) -> str:
    """What is wrong with a run without being a reason to refuse or end it."""
    return f"{problem['path']}: {problem['problem']}; wanted: {problem['allowed']}"


def duration(seconds: float) -> str:
    """1h02m, 3m07s, 12s."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 60}m{whole % 60:02d}s" if whole >= 60 else f"{whole}s"


def sparkline(values: list[float], *, width: int) -> str:
    """The course of a series in one line of `width` characters, each the mean of its share; 0 to 1 at least."""
    if not values:
        return ""
    cells = min(width, len(values))
    means = []
    for cell in range(cells):
        part = values[cell * len(values) // cells : (cell + 1) * len(values) // cells]
        means.append(sum(part) / len(part))
    low, high = min(0.0, *means), max(1.0, *means)
    bars = "▁▂▃▄▅▆▇█"
    return "".join(bars[min(7, int((mean - low) / (high - low) * 8))] for mean in means)
