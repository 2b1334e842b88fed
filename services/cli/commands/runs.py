"""Look at runs, steer them, and take away what they made."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from services.cli.options import (
    ActiveRun,
    Form,
    Format,
    Output,
    RunId,
    Server,
    Token,
    WatchedRun,
    api_at,
    exit_as,
    not_empty,
    print_json,
    progress_console,
)

app = typer.Typer()
export = typer.Typer(help="Take away what a run made.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(export, name="export")


@app.command()
def status(run_id: WatchedRun = None, server: Server = "", token: Token = "", output: Output = Format.TEXT) -> None:
    """Show one run."""
    from services.cli import tables

    api = api_at(server, token)
    found = api.run(run_id) if run_id else api.at_work()
    print_json(found) if output is Format.JSON else tables.print_run(found, api.fleet())


@app.command("list")
def list_(server: Server = "", token: Token = "", output: Output = Format.TEXT) -> None:
    """List runs, newest first."""
    from services.cli import tables

    runs = api_at(server, token).runs()
    print_json({"runs": runs}) if output is Format.JSON else tables.print_runs(runs)


@app.command()
def watch(run_id: WatchedRun = None, server: Server = "", token: Token = "", output: Output = Format.TEXT) -> None:
    """Follow a run to its end; -o json prints its events, one a line. Ctrl-C only stops watching."""
    api = api_at(server, token)
    found = api.run(run_id) if run_id else api.at_work()
    if output is Format.JSON:
        for event in api.follow(found["id"]):
            print(json.dumps({"id": event.id, "type": event.type, "data": event.data}), flush=True)
    else:
        from services.cli.display import make_display
        from services.cli.session import follow

        with make_display(progress_console()) as display:
            follow(api, found, display)
    exit_as(api.run(found["id"])["state"])


@app.command()
def track(
    run_id: WatchedRun = None,
    to: Annotated[str, typer.Option(help="tensorboard, or wandb (offline without a key of yours)")] = "tensorboard",
    folder: Annotated[Path, typer.Option(help="for the tracker's files")] = Path("tracked"),
    server: Server = "",
    token: Token = "",
) -> None:
    """Send a run's numbers to TensorBoard or Weights & Biases, until it is over; of a run that is over, all of them."""
    from contextlib import closing

    from services.cli import track as tracking
    from services.cli.trackers import open_tracker
    from syncline.errors import SynclineError, Unavailable

    api = api_at(server, token)
    found = api.run(run_id) if run_id else api.at_work()
    try:
        with closing(open_tracker(to, found, folder=folder)) as tracker:
            print(f"{found['id']} goes to {to}: {tracker.place}", file=sys.stderr)
            count = tracking.track(api.follow(found["id"]), tracker)
    except OSError as error:
        raise SynclineError(f"{to} cannot write below {folder} ({error}); name another --folder") from error
    except Unavailable as error:
        raise Unavailable(f"{error.message}; the run is kept: start its stack again, and track it once more") from None
    print(f"{found['id']}: {count} steps and evaluations tracked; look at them: {tracker.place}", file=sys.stderr)


@app.command()
def cancel(run_id: ActiveRun = None, server: Server = "", token: Token = "", output: Output = Format.TEXT) -> None:
    """Cancel a run."""
    _act("cancel", run_id, server, token, output)


@app.command()
def pause(run_id: ActiveRun = None, server: Server = "", token: Token = "", output: Output = Format.TEXT) -> None:
    """Hold a run before its next step; nothing is lost."""
    _act("pause", run_id, server, token, output)


@app.command()
def resume(run_id: RunId = None, server: Server = "", token: Token = "", output: Output = Format.TEXT) -> None:
    """Continue a paused run, or a failed or cancelled one from its last saved state."""
    _act("resume", run_id, server, token, output)


@app.command("set-period")
def set_period(
    period: Annotated[str, typer.Argument(help="updates between two syncs, or never")],
    run_id: ActiveRun = None,
    server: Server = "",
    token: Token = "",
    output: Output = Format.TEXT,
) -> None:
    """Change the sync period of a run, from its next window on."""
    api = api_at(server, token)
    found = api.change_period(run_id or api.only_active()["id"], int(period) if period.isdecimal() else period)
    text = f"{found['id']}: period {period}"
    if changes := found["spec"]["sync"].get("changes"):
        text += f" from the window that starts at step {changes[-1]['step']} or after"
    print_json(found) if output is Format.JSON else print(text)


@export.command("rollouts")
def export_rollouts(
    run_id: RunId = None,
    file: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="file to write; compressed if named .gz")
    ] = "",
    form: Annotated[Form, typer.Option("--format", help="whole groups, or {prompt, chosen, rejected} rows")] = (
        Form.ROLLOUTS
    ),
    task: Annotated[str, typer.Option(help="only this task; other trainers want prompts of one kind in a file")] = "",
    server: Server = "",
    token: Token = "",
) -> None:
    """Print what a run trained on, one JSON object a line: to train on again, or for other trainers."""
    from services.cli import export

    api = api_at(server, token)
    found = run_id or api.newest()["id"]
    chunks = api.rollouts(found, form=form.value, task=task)
    if file in ("", "-"):
        export.to_stream(chunks, sys.stdout.buffer)
    else:
        count = export.to_file(chunks, Path(file), console=progress_console())
        print(f"{count:,} rows of {found} are in {file}", file=sys.stderr)


@app.command()
def report(run_id: RunId = None, server: Server = "", token: Token = "", output: Output = Format.TEXT) -> None:
    """Say what came of a run that is over, and draw its learning curve, as `syncline run` does at its end."""
    from rich.console import Console

    from services.cli import report as reports

    api = api_at(server, token)
    outcome = reports.outcome_of(api, api.run(run_id) if run_id else api.newest())
    if output is Format.JSON:
        print_json({**outcome.summary, "summary_path": str(outcome.summary_path)})
    else:
        reports.print_report(Console(), outcome)


@app.command()
def delete(
    run_id: Annotated[str, typer.Argument(metavar="RUN", callback=not_empty, help="id of a run that is over")],
    server: Server = "",
    token: Token = "",
) -> None:
    """Delete a run that is over with all that it made: records, checkpoints, rollouts."""
    api_at(server, token).delete(run_id)
    print(f"{run_id}: deleted", file=sys.stderr)


def _act(
    verb: Literal["cancel", "pause", "resume"], run_id: str | None, server: str, token: str, output: Format
) -> None:
    api = api_at(server, token)
    meant = api.only_held if verb == "resume" else api.only_active
    found = api.act(run_id or meant()["id"], verb)
    print_json(found) if output is Format.JSON else print(f"{found['id']}: {found['state']}")
