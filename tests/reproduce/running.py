"""Runs the trials one after another on one local stack, over REST, as a user would.

The stack keeps its runs in its folder. A trial that has succeeded there is read, not run again; one that was cut off
goes on from its saved state. So the program can be stopped at any moment and started again.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from services.cli import stack
from services.cli.client import TERMINAL, Api
from services.cli.progress import duration
from syncline.errors import PeerTimeout, RunFailed
from tests.reproduce.arms import HELDOUT, Trial
from tests.reproduce.results import Result

_ASK_EVERY_S = 1.0
_SAY_EVERY_S = 30.0
_STUCK_AFTER_S = 900.0
"""Without a step or an evaluation for so long a run is given up: with other work on the machine a step may take
seconds, never this."""

Say = Callable[[str], None]


def run_all(trials: Sequence[Trial], *, folder: Path, engine: str, generators: int, say: Say) -> Iterator[Result]:
    """The result of each trial as soon as it is known. Raises RunFailed when one cannot be brought to its end."""
    started = stack.start(
        folder,
        port=_free_port(),
        generators=generators,
        engine=engine,
        project=Path.cwd(),
        lifeline=True,
        waiting=say,
    )
    api = Api((stack.living(folder) or {})["address"])
    try:
        clock = _Clock(trials)
        for trial in trials:
            run = _submitted(api, trial)
            if run["state"] == "succeeded":
                clock.left -= 1
            else:
                _follow(api, run["id"], clock, say)
            result = _result(api, run["id"], trial)
            say(f"{trial.spec.name}: best {result.best:.1%}, last {result.last:.1%}; runs to go: {clock.left}")
            yield result
    finally:
        api.close()
        started.stop()


class _Clock:
    """How long the rest will take, from the pace so far."""

    def __init__(self, trials: Sequence[Trial]) -> None:
        self.left = len(trials)
        self._seconds: list[float] = []

    def finished(self, seconds: float) -> None:
        self.left -= 1
        self._seconds.append(seconds)

    def estimate(self, *, spent: float, share: float) -> str:
        """With a run under way since `spent` seconds, of which `share` is done."""
        if not share and not self._seconds:
            return "no estimate yet"
        a_run = sum(self._seconds) / len(self._seconds) if self._seconds else spent / share
        return f"about {duration(a_run * (self.left - share))} left"


def _submitted(api: Api, trial: Trial) -> dict[str, Any]:
    """The trial's run: the one that is there already, sent on its way again where it was cut off, or a new one."""
    for run in api.runs():
        if run["name"] == trial.spec.name:
            return api.act(run["id"], "resume") if run["state"] in ("failed", "cancelled", "paused") else run
    return api.submit(trial.spec.model_dump(mode="json"))


def _follow(api: Api, run_id: str, clock: _Clock, say: Say) -> None:
    """Wait for the end of a run, saying every now and then where it is."""
    started_at = moved_at = time.monotonic()
    said_at, seen = 0.0, (-1, -1)
    while True:
        run, now = api.run(run_id), time.monotonic()
        step, steps = run["progress"]["step"], run["progress"]["steps"]
        if run["state"] == "succeeded":
            clock.finished(now - started_at)
            return
        if run["state"] in TERMINAL:
            raise RunFailed(f"{run_id} is {run['state']}: {run['reason']}; start again to go on from its saved state")
        if (there := (step, len(api.evaluations(run_id)))) != seen:
            moved_at, seen = now, there
        elif now - moved_at > _STUCK_AFTER_S:
            raise PeerTimeout(f"{run_id} is {run['state']} and has not moved for {_STUCK_AFTER_S:g} s: {run['reason']}")
        if now - said_at > _SAY_EVERY_S:
            left = clock.estimate(spent=now - started_at, share=step / steps)
            say(f"{run['name']}: step {step}/{steps}, {left}")
            said_at = now
        time.sleep(_ASK_EVERY_S)


def _result(api: Api, run_id: str, trial: Trial) -> Result:
    accuracies = {row["version"]: row["accuracy"] for row in api.evaluations(run_id) if row["name"] == HELDOUT}
    if trial.spec.steps not in accuracies or None in accuracies.values():
        raise RunFailed(f"{run_id} ended without all of its evaluations: {accuracies}")
    steps = api.steps(run_id)
    return Result(
        arm=trial.arm.key,
        seed=trial.seed,
        accuracies=dict(sorted(accuracies.items())),
        groups=sum(len(row["trained"]) for row in steps),
        staleness=max(row["staleness"] for row in steps),
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
