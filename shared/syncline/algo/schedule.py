"""The sync schedule as pure functions: which weights generate the rollouts of which step.

Words (design): step t is the t-th optimizer update, counted from 0; version v is the
weights after v updates; the sync period s is the number of updates between two syncs of
the generators; a window is the s steps whose rollouts come from one version.

    version_for_step(t) = max(0, (t // s - lag) * s)      and 0 for s = never

At lag 0 this is the paper's schedule: offline (never), semi-online (s > 1), online (s = 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Period = int | Literal["never"]


@dataclass(frozen=True, slots=True)
class Window:
    """Steps `start` <= t < `stop`, all trained on rollouts of `version`."""

    start: int
    stop: int
    version: int


@dataclass(frozen=True, slots=True)
class Schedule:
    """The schedule of a run of `steps` updates.

    `ahead` bounds how many steps of prompts may wait before the learner where a window is
    longer than that (large s, or never); within it the window itself is the bound.
    """

    period: Period
    lag: int
    steps: int
    ahead: int = 32

    def __post_init__(self) -> None:
        if self.period != "never" and self.period < 1:
            raise ValueError(f"sync.period must be an int >= 1 or 'never', not {self.period!r}")
        if self.lag not in (0, 1):
            raise ValueError(f"sync.lag must be 0 or 1, not {self.lag!r}")

    def version_for_step(self, step: int) -> int:
        """Version whose rollouts train `step`."""
        if self.period == "never":
            return 0
        return max(0, (step // self.period - self.lag) * self.period)

    def staleness(self, step: int) -> int:
        """Updates between the weights that generated the rollouts of `step` and those that train on them."""
        return step - self.version_for_step(step)

    def window(self, step: int) -> Window:
        """The window that holds `step`."""
        if self.period == "never":
            return Window(0, self.steps, 0)
        start = step // self.period * self.period
        return Window(start, min(start + self.period, self.steps), self.version_for_step(step))

    def is_sync_version(self, version: int) -> bool:
        """Whether some step of the run trains on rollouts of `version`, so that generators must get it."""
        if version == 0:
            return True
        if self.period == "never" or version % self.period:
            return False
        return version + self.lag * self.period < self.steps

    def admissible_steps(self, *, learner_step: int, latest_version: int) -> range:
        """Steps whose prompts may be in the system while the learner works on `learner_step`.

        A step is admissible when its version is published (`latest_version` is the newest sync
        version there is) and it lies at most one window ahead of the learner's own window,
        and at most `ahead` steps ahead where windows are longer than that.
        """
        stop = learner_step
        while (
            stop < self.steps
            and self.version_for_step(stop) <= latest_version
            and self.window(stop).start <= self.window(learner_step).stop
            and stop - learner_step < max(self.ahead, 1)
        ):
            stop += 1
        return range(learner_step, stop)
