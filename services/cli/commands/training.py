"""Train: submit a run spec, or check it."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from urllib.parse import urlsplit

import typer

from services.cli.options import (
    DEFAULT_PORT,
    ENGINE,
    EXIT_INTERRUPTED,
    STACK,
    Engine,
    Folder,
    Format,
    From,
    Generators,
    Output,
    Overrides,
    Port,
    RewardModel,
    Server,
    SpecFile,
    Token,
    api_at,
    exit_as,
    print_json,
    progress_console,
)
from syncline.errors import FieldProblem, InvalidSpec

app = typer.Typer()


@app.command()
def run(
    spec: SpecFile,
    set_: Overrides = None,
    from_: From = "",
    generators: Generators = 1,
    engine: Engine = ENGINE,
    reward_model: RewardModel = None,
    port: Port = None,
    server: Server = "",
    token: Token = "",
    folder: Folder = STACK,
    output: Output = Format.TEXT,
) -> None:
    """Train: start a local stack if none answers, submit, follow to the end, report. Ctrl-C cancels."""
    from rich.console import Console

    from services.cli import report, specfile, stack
    from services.cli.session import StackChoice, run_to_the_end

    checked = specfile.load(spec, overrides=_with_start(set_, from_))
    there = stack.living(folder.resolve()) if port is None else None
    choice = StackChoice(
        folder=folder.resolve(),
        port=urlsplit(there["address"]).port if there else port or DEFAULT_PORT,
        generators=generators,
        engine=engine,
        project=_project(spec),
        reward_model=reward_model.resolve() if reward_model else None,
    )
    try:
        outcome = run_to_the_end(checked, server=server, token=token, choice=choice, console=progress_console())
    except KeyboardInterrupt as interrupted:
        print(f"interrupted; {interrupted}" if interrupted.args else "interrupted", file=sys.stderr)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    if output is Format.JSON:
        print_json({**outcome.summary, "summary_path": str(outcome.summary_path)})
    else:
        report.print_report(Console(), outcome)
    exit_as(outcome.run["state"])


@app.command()
def submit(
    spec: SpecFile,
    set_: Overrides = None,
    from_: From = "",
    server: Server = "",
    token: Token = "",
    output: Output = Format.TEXT,
) -> None:
    """Submit a run and return at once; prints its id, and on standard error what may hold it up."""
    from services.cli import specfile
    from services.cli.progress import warning

    checked = specfile.load(spec, overrides=_with_start(set_, from_))
    created = api_at(server, token).submit(checked.model_dump(mode="json"))
    for problem in created["warnings"]:
        print(f"warning: {warning(problem)}", file=sys.stderr)
    print_json(created) if output is Format.JSON else print(created["id"])


@app.command()
def validate(spec: SpecFile, set_: Overrides = None, output: Output = Format.TEXT) -> None:
    """Check a spec without a server; -o json prints it with every default filled in."""
    from services.cli import specfile
    from services.cli.progress import warning

    checked = specfile.load(spec, overrides=set_ or [])
    for problem in checked.warnings():
        print(f"warning: {warning(asdict(problem))}", file=sys.stderr)
    for field, path in specfile.local_paths(checked):
        if not path.exists():
            print(
                f"warning: {field}: {path} is not here; files are checked where the coordinator runs", file=sys.stderr
            )
    if output is Format.JSON:
        print_json(checked.model_dump(mode="json"))
    else:
        period = checked.sync.period
        every = "step" if period == 1 else f"{period} steps"
        how = "never synced" if period == "never" else f"synced every {every}"
        print(
            f"{spec}: ok ({checked.algorithm.name}, {checked.steps} steps of {checked.prompts_per_step} prompts, {how})"
        )


def _with_start(overrides: list[str] | None, start: str) -> list[str]:
    given = overrides or []
    if not start:
        return given
    if also := [one for one in given if one.partition("=")[0] in ("model", "model.path")]:
        problem = f"it names the model, and so does --set {also[0]}"
        raise InvalidSpec([FieldProblem("--from", problem, "one of the two")])
    return [*given, f"model.path=run://{start}"]


def _project(spec: Path) -> Path:
    """Folder that a stack started for this spec may read models and data from: here, or where the spec lies."""
    here, home = Path.cwd(), spec.resolve().parent
    return here if home.is_relative_to(here) else home
