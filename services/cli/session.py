"""`syncline run`: a stack if none answers, one run from submission to report, and nothing left behind."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from services.cli import report, specfile, stack
from services.cli.client import TERMINAL, Api
from services.cli.display import Display, make_display
from services.cli.options import DEFAULT_PORT
from services.cli.outcome import Outcome
from services.cli.progress import Progress
from syncline.errors import FieldProblem, InvalidSpec, SynclineError, Unavailable
from syncline.runspec import RunSpec

_CANCEL_DEADLINE_S = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StackChoice:
    """The stack to start when none answers."""

    folder: Path
    port: int
    generators: int
    engine: str
    project: Path
    reward_model: Path | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def run_to_the_end(spec: RunSpec, *, server: str, token: str, choice: StackChoice, console: Console) -> Outcome:
    """Submit, follow, report.

    `server` names a coordinator that must answer; empty takes the one of `choice`, started if need be. One that was
    started here is stopped at the end, unless it has other runs by then. A KeyboardInterrupt cancels the run before it
    goes on up, with what became of the run.
    """
    api = Api(server or choice.address, token=token)
    with make_display(console) as display, _running_stack(api, spec, server, choice, display) as use:
        run = api.submit(spec.model_dump(mode="json"))
        use.run_id = run["id"]
        display.wait(f"the web page is at {api.server}")
        try:
            follow(api, run, display)
        except KeyboardInterrupt:
            display.wait("interrupted: cancelling the run")
            raise KeyboardInterrupt(
                f"run {run['id']} is {_cancel(api, run['id'])}; {_how_to_go_on(run, use, choice)}"
            ) from None
        run = api.run(run["id"])
        return report.outcome_of(api, run, next_command=_what_to_try(api, run, started_here=use.started, choice=choice))


def _how_to_go_on(run: Mapping[str, Any], use: _Use, choice: StackChoice) -> str:
    resume = f"syncline resume {run['id']}"
    return f"to go on: {_up(choice)} && {resume}" if use.started else f"to go on: {resume}"


def follow(api: Api, run: dict[str, Any], display: Display) -> None:
    """Show a run until it is over."""
    progress = Progress.of(run)
    display.follow(progress)
    for event in api.follow(run["id"]):
        progress.apply(event)
        display.show(event)


def _what_to_try(api: Api, run: Mapping[str, Any], *, started_here: bool, choice: StackChoice) -> str:
    """The run over REST; a stack that was started for the run is gone by then, and another one knows the run too."""
    curl = f"curl {api.server}/v1/runs/{run['id']}/steps"
    return f"{_up(choice)} && {curl}" if started_here else curl


def _up(choice: StackChoice) -> str:
    return "make up" if choice.port == DEFAULT_PORT else f"make up PORT={choice.port}"


@dataclass(slots=True)
class _Use:
    """A stack that is used."""

    started: bool
    """Whether it was started for the run."""
    run_id: str = ""
    """The run, once it is known."""


@contextmanager
def _running_stack(api: Api, spec: RunSpec, server: str, choice: StackChoice, display: Display) -> Iterator[_Use]:
    """Make sure that a coordinator answers. A stack that is started for that stops at the end of the block, or stays
    for the runs of others."""
    if api.answers():
        display.wait(f"using the stack at {api.server}" + _stays_as_it_is(server, choice))
        yield _Use(started=False)
        return
    if server:
        raise Unavailable(f"nothing answers at {server}; start it there, or leave --server out to start a stack here")
    _check_roots(spec, choice)
    started = stack.start(
        choice.folder,
        port=choice.port,
        generators=choice.generators,
        engine=choice.engine,
        project=choice.project,
        reward_model=choice.reward_model,
        lifeline=True,
        waiting=display.wait,
    )
    use = _Use(started=True)
    try:
        yield use
    finally:
        if others := _others_at_work(api, use.run_id):
            display.wait(f"the local stack stays up for {', '.join(others)}; stop it with: syncline down")
            started.leave()
        else:
            display.wait("stopping the local stack")
            started.stop()


def _stays_as_it_is(server: str, choice: StackChoice) -> str:
    """That a stack which is up already is another one than was asked for."""
    there = None if server else stack.living(choice.folder)
    if there is None or there.get("engine") == choice.engine:
        return ""
    return f", which stays as it is ({stack.description(there)}); for another engine stop it first: syncline down"


def _check_roots(spec: RunSpec, choice: StackChoice) -> None:
    """Refuse now what the stack that is to be started would refuse: it reads below its own folders only."""
    problems = []
    for field, path in specfile.local_paths(spec):
        variable = "SYNCLINE_MODEL_ROOT" if field == "model.path" else "SYNCLINE_DATA_ROOT"
        roots = [Path(os.environ.get(variable) or choice.project), *([choice.folder] if field == "model.path" else [])]
        if not any(path.is_relative_to(root.resolve()) for root in roots):
            problem = f"{path} lies outside {roots[0]}, below which the stack reads that is started for this run"
            problems.append(FieldProblem(field, problem, f"a path below it, or {variable}=FOLDER"))
    if problems:
        raise InvalidSpec(problems)


def _others_at_work(api: Api, run_id: str) -> list[str]:
    """Runs of others that still need the stack; none where nobody answers any more."""
    try:
        return [run["id"] for run in api.runs() if run["state"] not in TERMINAL and run["id"] != run_id]
    except SynclineError:
        return []


def _cancel(api: Api, run_id: str) -> str:
    """Ask for the end of a run and give it a moment; returns the state it is in then."""
    try:
        state = str(api.act(run_id, "cancel")["state"])
        deadline = time.monotonic() + _CANCEL_DEADLINE_S
        while state not in TERMINAL and time.monotonic() < deadline:
            time.sleep(0.1)
            state = str(api.run(run_id)["state"])
        return state
    except SynclineError as error:  # a coordinator that is gone has no run to cancel
        return f"in an unknown state ({error.message})"
