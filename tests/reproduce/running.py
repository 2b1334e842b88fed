"""Runs the trials one after another on one local stack, over REST, as a user would.

The stack keeps its runs in its folder. A trial that has succeeded there is read, not run again; one that was cut off
goes on from its saved state. So the program can be stopped at any moment and started again.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from services.cli import stack
from services.cli.client import TERMINAL, Api
from services.cli.progress import duration
from syncline.errors import PeerTimeout, RunFailed, Unavailable
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
        reward_model=None,
        lifeline=True,
        waiting=say,
    )
    api = Api((stack.living(folder) or {})["address"])
    try:
        clock = _Clock(sum(trial.spec.steps for trial in trials))
        for number, trial in enumerate(trials, start=1):
            run = _submitted(api, trial)
            _follow(api, run, clock, say)
            result = _result(api, run["id"], trial)
            say(f"{number}/{len(trials)} {trial.spec.name}: best {result.best:.1%}, last {result.last:.1%}")
            yield result
    finally:
        api.close()
        started.stop()


class _Clock:
    """How long the rest will take, from the pace so far."""

    def __init__(self, updates: int) -> None:
        self._left = updates
        self._made = 0
        self._started_at = time.monotonic()

    def found(self, updates: int) -> None:
        """These were there already."""
        self._left -= updates

    def made(self, updates: int) -> None:
        self._left -= updates
        self._made += updates

    def __str__(self) -> str:
        if self._made <= 0:
            return "no estimate yet"
        spent = time.monotonic() - self._started_at
        return f"about {duration(spent / self._made * self._left)} left"


def _submitted(api: Api, trial: Trial) -> dict[str, Any]:
    """The trial's run: the one that is there already, sent on its way again where it was cut off, or a new one."""
    for run in api.runs():
        if run["name"] == trial.spec.name:
            return api.act(run["id"], "resume") if run["state"] in ("failed", "cancelled", "paused") else run
    return api.submit(trial.spec.model_dump(mode="json"))


def _follow(api: Api, run: dict[str, Any], clock: _Clock, say: Say) -> None:
    """Wait for the end of a run, saying every now and then where it is."""
    step, steps, evaluations = run["progress"]["step"], run["progress"]["steps"], 0
    clock.found(step)
    moved_at, said_at = time.monotonic(), 0.0
    while run["state"] != "succeeded":
        if run["state"] in TERMINAL:
            raise RunFailed(
                f"{run['id']} is {run['state']}: {run['reason']}; start again to go on from its saved state"
            )
        now = time.monotonic()
        if now - moved_at > _STUCK_AFTER_S:
            raise PeerTimeout(
                f"{run['id']} is {run['state']} and has not moved for {_STUCK_AFTER_S:g} s: {run['reason']}"
            )
        if now - said_at > _SAY_EVERY_S:
            say(f"{run['name']}: step {step}/{steps}, {clock}")
            said_at = now
        time.sleep(_ASK_EVERY_S)
        with suppress(Unavailable):  # the stack starts a coordinator that has died anew; the patience above holds
            run, seen = api.run(run["id"]), len(api.evaluations(run["id"]))
            if (run["progress"]["step"], seen) != (step, evaluations):
                clock.made(run["progress"]["step"] - step)
                step, evaluations, moved_at = run["progress"]["step"], seen, now


def _result(api: Api, run_id: str, trial: Trial) -> Result:
    found = {row["version"]: row["score"] for row in api.evaluations(run_id) if row["name"] == HELDOUT}
    if trial.spec.steps not in found or None in found.values():
        raise RunFailed(f"{run_id} ended without all of its evaluations: {found}")
    steps = api.steps(run_id)
    return Result(
        arm=trial.arm.key,
        seed=trial.seed,
        accuracies={version: found[version]["mean"] for version in sorted(found)},
        groups=sum(len(row["trained"]) for row in steps),
        staleness=max(row["staleness"] for row in steps),
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
