"""The command `syncline`: run, watch and stop training jobs, and the local stack they run on.

Exit codes: 0 done, 1 refused or unreachable, 2 wrong usage, 3 the run failed, 130 interrupted.
Progress goes to standard error, data to standard output.
"""

# Each command imports what it needs when it is called: `syncline --help` must not wait for it.

from __future__ import annotations

import json
import os
import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from services.cli.client import Api

EXIT_USER_ERROR, EXIT_RUN_FAILED, EXIT_INTERRUPTED = 1, 3, 130
_DEFAULT_SERVER = "http://127.0.0.1:8080"

app = typer.Typer(
    name="syncline",
    help="Reinforcement-learning post-training of language models, anywhere between offline and online.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
export = typer.Typer(help="Take away what a run made.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(export, name="export")


class Format(StrEnum):
    """How data is printed."""

    TEXT = "text"
    JSON = "json"


class Form(StrEnum):
    """What is exported of a group: all of it, or its preference pairs."""

    ROLLOUTS = "rollouts"
    PREFERENCES = "preferences"


class Engine(StrEnum):
    """What generates: vLLM, or the light engine on transformers."""

    VLLM = "vllm"
    TRANSFORMERS = "transformers"


SpecFile = Annotated[Path, typer.Argument(help="run spec in YAML or JSON")]
RunId = Annotated[str, typer.Argument(metavar="RUN", help="id of the run; the newest one if left out")]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="A.B=C", help="change a field; repeatable")]
From = Annotated[
    str, typer.Option("--from", metavar="RUN[/final|best|vN]", help="start from a checkpoint of another run")
]
Server = Annotated[str, typer.Option(envvar="SYNCLINE_SERVER", help="address of the coordinator")]
Token = Annotated[str, typer.Option(envvar="SYNCLINE_TOKEN", help="bearer token, if it asks for one")]
Output = Annotated[Format, typer.Option("--output", "-o", help="format of what is printed")]
Folder = Annotated[Path, typer.Option(envvar="SYNCLINE_STACK", help="folder of the local stack")]
Port = Annotated[int, typer.Option(min=1, max=65535, help="port of the local stack's REST API")]
Generators = Annotated[int, typer.Option(min=1, help="inference processes of a stack that is started")]
RewardModel = Annotated[
    Path | None, typer.Option(help="folder of a reward model to serve with the stack, at the port after --port")
]
WhichEngine = Annotated[Engine, typer.Option(help="engine of a stack that is started")]

_STACK = Path(".run")


@app.command()
def run(
    spec: SpecFile,
    set_: Overrides = None,
    from_: From = "",
    generators: Generators = 1,
    engine: WhichEngine = Engine.VLLM,
    reward_model: RewardModel = None,
    port: Port = 8080,
    server: Server = "",
    token: Token = "",
    folder: Folder = _STACK,
    output: Output = Format.TEXT,
) -> None:
    """Train: start a local stack if none answers, submit, follow to the end, report. Ctrl-C cancels."""
    from rich.console import Console

    from services.cli import report, specfile
    from services.cli.session import StackChoice, run_to_the_end

    checked = specfile.load(spec, overrides=_with_start(set_, from_))
    choice = StackChoice(
        folder=folder.resolve(),
        port=port,
        generators=generators,
        engine=engine.value,
        project=_project(spec),
        reward_model=reward_model.resolve() if reward_model else None,
    )
    try:
        outcome = run_to_the_end(checked, server=server, token=token, choice=choice, console=_progress_console())
    except KeyboardInterrupt as interrupted:
        print(f"interrupted; {interrupted}" if interrupted.args else "interrupted", file=sys.stderr)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    if output is Format.JSON:
        _print_json({**outcome.summary, "summary_path": outcome.run["summary_path"]})
    else:
        report.print_report(Console(), outcome)
    _exit_as(outcome.run["state"])


@app.command()
def submit(
    spec: SpecFile,
    set_: Overrides = None,
    from_: From = "",
    server: Server = _DEFAULT_SERVER,
    token: Token = "",
    output: Output = Format.TEXT,
) -> None:
    """Hand in a run and return at once; prints its id, and on standard error what may keep it from going on."""
    from services.cli import specfile
    from services.cli.progress import warning

    checked = specfile.load(spec, overrides=_with_start(set_, from_))
    created = _api(server, token).submit(checked.model_dump(mode="json"))
    for problem in created["warnings"]:
        print(f"warning: {warning(problem)}", file=sys.stderr)
    _print_json(created) if output is Format.JSON else print(created["id"])


@app.command()
def validate(spec: SpecFile, set_: Overrides = None, output: Output = Format.TEXT) -> None:
    """Check a spec without a server; -o json prints it with every default filled in."""
    from services.cli import specfile

    checked = specfile.load(spec, overrides=set_ or [])
    if output is Format.JSON:
        _print_json(checked.model_dump(mode="json"))
    else:
        period = checked.sync.period
        every = "step" if period == 1 else f"{period} steps"
        how = "never synced" if period == "never" else f"synced every {every}"
        print(
            f"{spec}: ok ({checked.algorithm.name}, {checked.steps} steps of {checked.prompts_per_step} prompts, {how})"
        )


@app.command()
def status(
    run_id: RunId = "", server: Server = _DEFAULT_SERVER, token: Token = "", output: Output = Format.TEXT
) -> None:
    """Show one run."""
    from services.cli import tables

    api = _api(server, token)
    found = api.run(run_id) if run_id else api.newest()
    _print_json(found) if output is Format.JSON else tables.print_run(found, api.fleet())


@app.command("list")
def list_(server: Server = _DEFAULT_SERVER, token: Token = "", output: Output = Format.TEXT) -> None:
    """List runs, newest first."""
    from services.cli import tables

    runs = _api(server, token).runs()
    _print_json({"runs": runs}) if output is Format.JSON else tables.print_runs(runs)


@app.command()
def watch(
    run_id: RunId = "", server: Server = _DEFAULT_SERVER, token: Token = "", output: Output = Format.TEXT
) -> None:
    """Follow a run to its end; -o json prints its events, one a line. Ctrl-C only stops watching."""
    api = _api(server, token)
    found = api.run(run_id) if run_id else api.newest()
    if output is Format.JSON:
        for event in api.follow(found["id"]):
            print(json.dumps({"id": event.id, "type": event.type, "data": event.data}), flush=True)
    else:
        from services.cli.display import make_display
        from services.cli.session import follow

        with make_display(_progress_console()) as display:
            follow(api, found, display)
    _exit_as(api.run(found["id"])["state"])


@app.command()
def cancel(
    run_id: RunId = "", server: Server = _DEFAULT_SERVER, token: Token = "", output: Output = Format.TEXT
) -> None:
    """Cancel a run."""
    _act("cancel", run_id, server, token, output)


@app.command()
def pause(
    run_id: RunId = "", server: Server = _DEFAULT_SERVER, token: Token = "", output: Output = Format.TEXT
) -> None:
    """Hold a run before its next step; nothing is lost."""
    _act("pause", run_id, server, token, output)


@app.command()
def resume(
    run_id: RunId = "", server: Server = _DEFAULT_SERVER, token: Token = "", output: Output = Format.TEXT
) -> None:
    """Continue a paused run, or a failed or cancelled one from its last saved state."""
    _act("resume", run_id, server, token, output)


@app.command("set-period")
def set_period(
    period: Annotated[str, typer.Argument(help="updates between two syncs, or never")],
    run_id: RunId = "",
    server: Server = _DEFAULT_SERVER,
    token: Token = "",
    output: Output = Format.TEXT,
) -> None:
    """Change the sync period of a run, from its next window on."""
    api = _api(server, token)
    found = api.change_period(run_id or api.newest()["id"], int(period) if period.isdigit() else period)
    last = found["spec"]["sync"]["changes"][-1]
    text = f"{found['id']}: period {last['period']} from the window that starts at step {last['step']} or after"
    _print_json(found) if output is Format.JSON else print(text)


@export.command("rollouts")
def export_rollouts(
    run_id: RunId = "",
    file: Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="where to; packed if named .gz")] = "",
    form: Annotated[Form, typer.Option("--format", help="whole groups, or {prompt, chosen, rejected} rows")] = (
        Form.ROLLOUTS
    ),
    task: Annotated[str, typer.Option(help="only this task; other trainers want prompts of one kind in a file")] = "",
    server: Server = _DEFAULT_SERVER,
    token: Token = "",
) -> None:
    """Print what a run trained on, one JSON object a line: to train on again, or for other trainers."""
    from services.cli import export

    api = _api(server, token)
    found = run_id or api.newest()["id"]
    chunks = api.rollouts(found, form=form.value, task=task)
    if file in ("", "-"):
        export.to_stream(chunks, sys.stdout.buffer)
    else:
        count = export.to_file(chunks, Path(file), console=_progress_console())
        print(f"{count:,} rows of {found} are in {file}", file=sys.stderr)


@app.command()
def up(
    generators: Generators = 1,
    engine: WhichEngine = Engine.VLLM,
    reward_model: RewardModel = None,
    port: Port = 8080,
    folder: Folder = _STACK,
    output: Output = Format.TEXT,
) -> None:
    """Start the local stack and leave it running; prints its REST address."""
    from services.cli import stack
    from services.cli.display import make_display

    there = stack.living(folder.resolve())
    if there is not None and there.get("address") == f"http://127.0.0.1:{port}" and there.get("state") == "ready":
        print("it is up already", file=sys.stderr)
        _print_json(there) if output is Format.JSON else print(there["address"])
        return
    with make_display(_progress_console()) as display:
        stack.start(
            folder.resolve(),
            port=port,
            generators=generators,
            engine=engine.value,
            project=Path.cwd(),
            reward_model=reward_model.resolve() if reward_model else None,
            lifeline=False,
            waiting=display.wait,
        )
    state = stack.living(folder.resolve()) or {}
    _print_json(state) if output is Format.JSON else print(state.get("address", ""))


@app.command()
def down(folder: Folder = _STACK, output: Output = Format.TEXT) -> None:
    """Stop the local stack."""
    from services.cli import stack

    stopped = stack.stop(folder.resolve())
    if output is Format.JSON:
        _print_json({"stopped": stopped})
    else:
        print("stopped" if stopped else f"no stack runs in {folder}", file=sys.stderr)


@app.command()
def scale(
    generators: Annotated[int, typer.Argument(min=0)],
    server: Server = _DEFAULT_SERVER,
    token: Token = "",
    output: Output = Format.TEXT,
) -> None:
    """Change the number of generators, of a local stack or on Kubernetes, in the middle of a run too."""
    fleet = _api(server, token).scale(generators)
    if output is Format.JSON:
        _print_json(fleet)
    else:
        print(f"{generators} generators wanted; watch them come and go: syncline status", file=sys.stderr)


@app.command()
def score(
    file: Annotated[Path, typer.Argument(help='JSONL with rows {"completion": ..., "answer": ...}')],
    reward: Annotated[str, typer.Option(help="reward of rows that name none, as in a run spec")] = '{"type": "math"}',
    golds: Annotated[bool, typer.Option("--golds", help="score each gold answer against itself")] = False,
    output: Output = Format.TEXT,
) -> None:
    """Score completions as the reward service would: a verdict a row. Needs no stack; exit code 1 if a row has none."""
    from services.cli.score import Tally, as_text, scored

    tally = Tally()
    with scored(file, reward=reward, golds=golds) as rows:
        for row in rows:
            tally.add(row)
            print(json.dumps(row, ensure_ascii=False) if output is Format.JSON else as_text(row))
    print(tally, file=sys.stderr)
    if tally.counts["problem"] or not tally.counts:
        raise typer.Exit(EXIT_USER_ERROR)


def _with_start(overrides: list[str] | None, start: str) -> list[str]:
    return [*(overrides or []), *([f"model.path=run://{start}"] if start else [])]


def _act(verb: Literal["cancel", "pause", "resume"], run_id: str, server: str, token: str, output: Format) -> None:
    api = _api(server, token)
    found = api.act(run_id or api.newest()["id"], verb)
    _print_json(found) if output is Format.JSON else print(f"{found['id']}: {found['state']}")


def _api(server: str, token: str) -> Api:
    from services.cli.client import Api

    return Api(server, token=token)


def _project(spec: Path) -> Path:
    """Folder that a stack started for this spec may read models and data from: here, or where the spec lies."""
    here, home = Path.cwd(), spec.resolve().parent
    return here if home.is_relative_to(here) else home


def _progress_console() -> Console:
    from rich.console import Console

    return Console(stderr=True)


def _print_json(data: dict[str, Any]) -> None:
    print(json.dumps(data, indent=2))


def _exit_as(state: str) -> None:
    if state != "succeeded":
        raise typer.Exit(EXIT_RUN_FAILED)


def main() -> None:
    """Entry point of the console script: runs a command and turns what went wrong into an exit code."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # both mean what Ctrl-C means
    from syncline.errors import InvalidSpec, SynclineError

    try:
        app(standalone_mode=True)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter complains once more
        sys.exit(EXIT_USER_ERROR)
    except InvalidSpec as error:
        print("the run spec was refused; nothing was started:", file=sys.stderr)
        for problem in error.problems:
            print(f"  {problem.path}: {problem.problem}\n    allowed: {problem.allowed}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    except SynclineError as error:
        print(f"error: {error.message}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)


if __name__ == "__main__":
    main()
